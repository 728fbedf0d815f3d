from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from trt_int8.errors import RequestError
from trt_int8.runtime.text.labels import (
    Label,
    check_top_k,
    class_scores,
    label_names,
    ranked,
)

logits = arrays.arrays(
    np.float32, st.integers(1, 9), elements=st.floats(-1e4, 1e4, width=32, allow_nan=False)
)


@given(values=logits)
def test_scores_are_those_of_torch_in_float64(values: np.ndarray) -> None:
    given_ = torch.from_numpy(values).double()
    np.testing.assert_allclose(
        class_scores(values, "single_label"), torch.softmax(given_, -1), rtol=1e-12, atol=1e-300
    )
    np.testing.assert_allclose(
        class_scores(values, "multi_label"), torch.sigmoid(given_), rtol=1e-12, atol=1e-300
    )
    assert class_scores(values, "regression").tolist() == given_.tolist()


def test_extreme_logits_give_no_warning_and_no_nan() -> None:
    with np.errstate(all="raise", under="ignore"):
        for problem in ("single_label", "multi_label"):
            found = class_scores(np.array([-3e38, 0, 3e38], np.float32), problem)
            assert np.isfinite(found).all()


@given(values=logits, top_k=st.one_of(st.none(), st.integers(1, 12)))
def test_labels_come_best_first_and_ties_in_the_order_of_the_classes(
    values: np.ndarray, top_k: int | None
) -> None:
    names = [f"n{index}" for index in range(len(values))]
    found = ranked(values.astype(np.float64), names, top_k)
    pairs = sorted(zip(values.tolist(), names, strict=True), key=lambda p: (-p[0], int(p[1][1:])))
    assert found == [Label(name, score) for score, name in pairs[:top_k]]


def test_classes_without_names_are_called_as_transformers_does() -> None:
    assert label_names((), 2) == ("LABEL_0", "LABEL_1")
    assert label_names(("a", "b"), 2) == ("a", "b")


def test_more_or_fewer_names_than_logits_are_an_error() -> None:
    with pytest.raises(RequestError, match="3 logits and has 2 labels"):
        label_names(("a", "b"), 3)


@pytest.mark.parametrize("top_k", [0, -1])
def test_a_top_k_below_one_is_an_error(top_k: int) -> None:
    with pytest.raises(RequestError, match=f"top_k is {top_k}"):
        check_top_k(top_k)
