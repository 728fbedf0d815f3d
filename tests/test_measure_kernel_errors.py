"""Errors of the kernels against float64: what is measured, and what the page says."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from scripts import measure_kernel_errors as script
from scripts.kernel_ladder.attention_error import (
    AttentionCase,
    error_ratios,
    lone_key_error,
    random_case,
)
from tests.plugins import attention_cases as cases

FIGURES: script.Figures = json.loads(script.FIGURES.read_text(encoding="utf-8"))


def plain(case: AttentionCase) -> NDArray[Any]:
    exact = cases.probabilities(case.options, case.scalars, case.tensors)
    return cases.weighted(np.rint(exact * 127) / 127, case.tensors)


def exact(case: AttentionCase) -> NDArray[Any]:
    return cases.weighted(
        cases.probabilities(case.options, case.scalars, case.tensors), case.tensors
    )


def test_the_plain_softmax_has_its_own_error() -> None:
    case = random_case(32, 64, deviation=1.5, value_mean=0.0)
    assert error_ratios(plain, case).plain == pytest.approx(1.0)


def test_an_exact_softmax_has_the_error_of_half_only() -> None:
    case = random_case(32, 64, deviation=1.5, value_mean=40.0)
    assert 0.0 < error_ratios(exact, case).plain < 0.05


def test_scores_have_the_deviation_asked_for() -> None:
    case = random_case(64, 1023, deviation=3.0, value_mean=0.0)
    q, k = (array[0, :, 0].astype(np.float64) for array in case.tensors.arrays[:2])
    scalars = case.scalars
    scores = q @ k.T * scalars.q_scale * scalars.k_scale * scalars.softmax_scale
    assert scores.std() == pytest.approx(3.0, rel=0.05)


def test_a_lone_key_of_half_the_weight_is_off_by_half() -> None:
    assert lone_key_error(lambda case: exact(case) / 2, 32) == 0.5


def test_codes_apart_are_counted_with_their_largest_distance() -> None:
    found = script._apart(np.array([1, 2, 3], np.int8), np.array([1, -2, 2], np.int8))
    assert found == {"elements": 3, "apart": 2, "steps": 4}


def test_the_committed_errors_of_a_layernorm_are_those_of_the_model() -> None:
    name = "RMSNorm, H = 768, half"
    assert script.layernorm_errors(script._ROWS[name]) == FIGURES["rows"][name]


def test_the_committed_errors_are_within_the_contracts() -> None:
    ratios = [pair for row in FIGURES["attention"]["ratio"].values() for pair in row.values()]
    assert max(pair["plain"] for pair in ratios) <= 2.0
    for row in FIGURES["rows"].values():
        assert row["steps"] <= 1
        assert row["apart"] <= 0.001 * row["elements"]


@pytest.mark.parametrize("mark", sorted(script.tables(FIGURES)))
def test_the_page_holds_the_tables_of_the_committed_errors(mark: str) -> None:
    text = script.PAGE.read_text(encoding="utf-8")
    body = text.split(f"<!-- {mark}:start -->\n")[1].split(f"\n<!-- {mark}:end -->")[0]
    assert body == script.tables(FIGURES)[mark]
