from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from trt_int8.errors import RecipeError
from trt_int8.spec.methods import METHODS, Method, parse_method, parse_methods


def test_a_name_alone_has_the_default_settings() -> None:
    assert parse_method("percentile") == Method(name="percentile", settings={"p": 99.99})
    assert parse_method("entropy").settings == {"stride": 1, "start": 128}
    assert parse_method("moving-average").settings == {"m": 0.9}
    assert parse_method("max").settings == {}


@pytest.mark.parametrize("text", ["percentile:99.5", "percentile:p=99.5", "  percentile:99.5 "])
def test_the_first_setting_may_go_without_its_name(text: str) -> None:
    assert parse_method(text) == Method(name="percentile", settings={"p": 99.5})


@pytest.mark.parametrize(
    "text", ["entropy:stride=8,start=64", "entropy:start=64,stride=8", "entropy:8,start=64"]
)
def test_several_settings_come_in_any_order(text: str) -> None:
    assert parse_method(text).settings == {"stride": 8, "start": 64}


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("max", "max"),
        ("percentile", "percentile:99.99"),
        ("percentile:100", "percentile:100"),
        ("percentile:99.99999999", "percentile:99.99999999"),
        ("percentile:1e-6", "percentile:1e-06"),
        ("moving-average:0", "moving-average:0"),
        ("entropy:stride=1", "entropy"),
        ("entropy:stride=8,start=64", "entropy:stride=8,start=64"),
        ("kl-symmetric:start=64", "kl-symmetric:start=64"),
    ],
)
def test_a_label_is_the_shortest_text_with_all_digits(text: str, label: str) -> None:
    assert parse_method(text).label == label


@given(st.data())
def test_a_label_reads_back_as_the_same_method(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(METHODS)))
    settings = {
        key: float(data.draw(st.integers(int(known.low), int(known.high))))
        if known.whole
        else data.draw(st.floats(known.low, known.high))
        for key, known in METHODS[name].settings.items()
    }
    method = Method(name=name, settings=settings)
    assert parse_method(method.label) == method
    assert parse_methods(method.label) == (method,)


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"'entrpy' is unknown; wanted one of max, .*entropy, "):
        parse_method("entrpy:8")


@pytest.mark.parametrize(
    ("text", "part", "wanted"),
    [
        ("max:5", "5", "only the name"),
        ("percentile:q=5", "q=5", "only p"),
        ("entropy:stride=8,p=5", "p=5", "only stride, start"),
    ],
)
def test_an_unknown_setting_is_refused_with_the_known_ones(
    text: str, part: str, wanted: str
) -> None:
    message = f"method {text!r} has the setting {part!r}; wanted {wanted};"
    with pytest.raises(RecipeError, match=re.escape(message)):
        parse_method(text)


@pytest.mark.parametrize(
    ("text", "number", "wanted"),
    [
        ("percentile:0", "0", "a number from 1e-06 to 100"),
        ("percentile:100.1", "100.1", "a number from 1e-06 to 100"),
        ("percentile:nan", "nan", "a number from 1e-06 to 100"),
        ("percentile:inf", "inf", "a number from 1e-06 to 100"),
        ("percentile:high", "high", "a number from 1e-06 to 100"),
        ("percentile:p=", "", "a number from 1e-06 to 100"),
        ("moving-average:1", "1", "a number from 0 to 0.999999999"),
        ("entropy:stride=0", "0", "a whole number from 1 to 4096"),
        ("entropy:stride=1.5", "1.5", "a whole number from 1 to 4096"),
        ("entropy:start=inf", "inf", "a whole number from 1 to 4096"),
        ("entropy:start=4097", "4097", "a whole number from 1 to 4096"),
    ],
)
def test_a_number_out_of_range_is_refused_with_the_range(
    text: str, number: str, wanted: str
) -> None:
    message = f"method {text!r} has the number {number!r}; wanted {wanted};"
    with pytest.raises(RecipeError, match=re.escape(message)):
        parse_method(text)


def test_a_list_keeps_its_order_and_gives_settings_to_the_method_before_them() -> None:
    found = parse_methods("mse, entropy:stride=8,start=64,max,percentile:99.9")
    assert [method.label for method in found] == [
        "mse",
        "entropy:stride=8,start=64",
        "max",
        "percentile:99.9",
    ]


def test_one_method_with_two_settings_may_be_listed_twice() -> None:
    found = parse_methods("percentile:99.9,percentile:99.99")
    assert [method.settings["p"] for method in found] == [99.9, 99.99]


@pytest.mark.parametrize("text", ["max,mse,max", "percentile,percentile:p=99.99"])
def test_a_method_named_twice_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match=r"method '(max|percentile:99\.99)' is named twice"):
        parse_methods(text)


@pytest.mark.parametrize("text", ["", "max,", ",max", "max,,mse"])
def test_an_empty_name_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="calibration method '' is unknown"):
        parse_methods(text)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_default_is_a_value_that_may_be_given(name: str) -> None:
    for setting in METHODS[name].settings.values():
        assert setting.low <= setting.default <= setting.high
    assert parse_method(parse_method(name).label) == parse_method(name)


def test_only_the_methods_of_a_low_and_a_high_end_are_not_symmetric() -> None:
    affine = {name for name, kind in METHODS.items() if not kind.symmetric}
    assert affine == {"kl-independent", "affine-minmax", "affine-current", "affine-mse"}


def test_a_method_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        parse_method("max").name = "mse"


def test_a_setting_given_twice_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"has the setting 'p=98', a second p; wanted only p"):
        parse_method("percentile:99,p=98")


@pytest.mark.parametrize("text", ["entropy,start=64", "entropy: start=64", "entropy:start = 64"])
def test_settings_are_read_with_spaces_and_behind_a_comma(text: str) -> None:
    assert [method.label for method in parse_methods(text)] == ["entropy:start=64"]
