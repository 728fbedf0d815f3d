from __future__ import annotations

import json
import math

import pytest
from pydantic import Field, ValidationError

from trt_int8.spec.base import Frozen


class Sample(Frozen):
    """A value object of its own."""

    number: float
    by_name: dict[str, int] = Field(default_factory=dict)
    pair: tuple[int, ...] = ()


def refuse(constant: str) -> float:
    raise AssertionError(f"{constant} is not JSON")


def test_the_json_form_is_sorted_indented_and_ends_with_a_newline() -> None:
    text = Sample(number=0.5, by_name={"b": 1, "a": 2}, pair=(3,)).to_json()
    assert text == (
        '{\n "by_name": {\n  "a": 2,\n  "b": 1\n },\n "number": 0.5,\n "pair": [\n  3\n ]\n}\n'
    )


def test_equal_objects_give_equal_bytes() -> None:
    first = Sample(number=1, by_name={"b": 1, "a": 2})
    second = Sample(number=1.0, by_name={"a": 2, "b": 1})
    assert first == second
    assert first.to_json() == second.to_json()


@pytest.mark.parametrize("number", [math.inf, -math.inf])
def test_an_infinite_number_survives_the_json_form(number: float) -> None:
    sample = Sample(number=number)
    assert Sample.model_validate_json(sample.to_json()) == sample


@pytest.mark.parametrize("number", [math.inf, -math.inf, math.nan])
def test_the_json_form_is_json_for_other_readers_too(number: float) -> None:
    # RFC 8259 has no Infinity and no NaN.
    assert json.loads(Sample(number=number).to_json(), parse_constant=refuse)


def test_text_other_than_ascii_survives_the_json_form() -> None:
    sample = Sample(number=1, by_name={"größe 数": 1})
    assert Sample.model_validate_json(sample.to_json()) == sample


def test_a_field_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Sample(number=1).number = 2


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs"):
        Sample.model_validate({"number": 1, "nummer": 2})
