from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_int8.errors import TargetError
from trt_int8.spec.targets import check_rtx_targets, parse_targets, target_folder


def sms(text: str) -> list[int]:
    return [target.sm for target in parse_targets(text)]


@pytest.mark.parametrize(
    ("card", "sm"), [("t4", 75), ("a100", 80), ("A10", 86), ("l4", 89), ("H100", 90), ("b200", 100)]
)
def test_a_card_name_gives_its_compute_capability(card: str, sm: int) -> None:
    assert sms(card) == [sm]


@pytest.mark.parametrize("text", ["sm86", "SM86", "86", "8.6", "sm8.6", "sm_86", " sm86 "])
def test_every_usual_spelling_of_an_sm_is_read(text: str) -> None:
    assert sms(text) == [86]


def test_a_list_keeps_its_order_and_names_an_sm_once() -> None:
    targets = parse_targets("a100,t4,sm75,,rtx30,")
    assert [(t.name, t.sm) for t in targets] == [("a100", 80), ("t4", 75), ("rtx30", 86)]


def test_the_folder_is_named_after_the_sm() -> None:
    assert target_folder(75) == "sm75"
    assert target_folder(None) == "local"


@pytest.mark.parametrize("text", ["", " , ,"])
def test_an_empty_list_is_refused(text: str) -> None:
    with pytest.raises(TargetError, match="wanted at least one card or SM"):
        parse_targets(text)


def test_a_misspelt_card_gets_a_suggestion() -> None:
    with pytest.raises(TargetError, match=r"unknown target 'a1000'.*did you mean 'a100'\?"):
        parse_targets("t4,a1000")


def test_an_unknown_name_lists_what_is_known() -> None:
    with pytest.raises(TargetError, match=r"'quadro'; wanted one of t4, .*gb10 or sm75/80/86/"):
        parse_targets("quadro")


def test_an_sm_that_no_card_has_is_refused() -> None:
    with pytest.raises(TargetError, match="unknown target 'sm81'"):
        parse_targets("sm81")


def test_a_digit_of_another_kind_is_refused_and_does_not_crash() -> None:
    with pytest.raises(TargetError, match="unknown target 'sm7²'"):
        parse_targets("sm7²")


@settings(max_examples=60)
@given(st.text(max_size=7))
def test_any_text_gives_targets_or_a_target_error(text: str) -> None:
    with contextlib.suppress(TargetError):
        assert parse_targets(text)


def test_rtx_serves_the_common_cards() -> None:
    check_rtx_targets(parse_targets("t4,a100,a10,l4,rtx50,gb10"))


@pytest.mark.parametrize(("card", "sm"), [("h100", 90), ("b200", 100)])
def test_rtx_refuses_a_card_and_names_the_flavour_that_serves_it(card: str, sm: int) -> None:
    with pytest.raises(TargetError, match=rf"'{card}' is SM{sm}, .*--flavour tensorrt"):
        check_rtx_targets(parse_targets(f"t4,{card}"))
