from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_int8.errors import RequestError
from trt_int8.runtime.buckets import buckets_of
from trt_int8.runtime.fixed import any_batch, cut_rows, for_cpu, join_rows, with_shapes
from trt_int8.runtime.packing import batch_sizes
from trt_int8.runtime.tensors import ANY, Signature, TensorInfo
from trt_int8.spec.shapes import InputShape


def signature(**changes: Any) -> Signature:
    """Ids and mask, 1 to 8 samples of 2 to 64 tokens."""
    names = ("ids", "mask")
    made = Signature(
        inputs=tuple(TensorInfo(n, "int64", ("batch", "seq"), (1, 2), (8, 64)) for n in names),
        outputs=(TensorInfo("tokens", "float32", ("batch", "seq", 3)),),
        token_axes={"ids": 1, "mask": 1},
        mask="mask",
        profiles=(tuple(InputShape(name=n, min=(1, 2), opt=(4, 8), max=(8, 64)) for n in names),),
    )
    return replace(made, **changes)


def test_on_a_cpu_only_the_upper_limit_of_the_length_stays() -> None:
    made = for_cpu(signature())
    assert {(one.smallest, one.largest) for one in made.inputs} == {((1, 1), (ANY, 64))}
    assert made.profiles == ()


def test_a_fixed_batch_stays_fixed_on_a_cpu() -> None:
    fixed = tuple(replace(one, axes=(8, "seq"), smallest=(8, 2)) for one in signature().inputs)
    assert for_cpu(signature(inputs=fixed)).inputs[0].largest == (8, 64)
    assert any_batch(signature(inputs=fixed)).inputs[0].smallest == (8, 2)


def test_fixed_shapes_are_profiles_that_buckets_and_packing_understand() -> None:
    made = with_shapes(signature(), ((8, 16), (1, 16), (2, 64)))
    buckets, sizes = buckets_of(made), batch_sizes(made)
    assert buckets is not None
    assert buckets.lengths == (16, 64)
    assert [sizes.rows(rows, 16) for rows in (1, 2, 8)] == [1, 8, 8]
    assert (sizes.most(16), sizes.most(64)) == (8, 2)
    assert (made.inputs[0].smallest, made.inputs[0].largest) == ((1, 16), (8, 64))


@pytest.mark.parametrize("shape", [(9, 16), (1, 65), (1, 1)])
def test_a_shape_that_the_engine_does_not_take_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(RequestError, match="wanted"):
        with_shapes(signature(), (shape,))


def test_another_dynamic_axis_is_refused() -> None:
    wide = TensorInfo("pixels", "float32", ("batch", 3, "height"), (1, 3, 4), (8, 3, 9))
    with pytest.raises(RequestError, match="neither samples nor tokens"):
        with_shapes(signature(inputs=(wide,), profiles=(), token_axes={}), ((1, 4),))


@given(rows=st.integers(1, 40), sizes=st.sets(st.integers(1, 12), min_size=1, max_size=4))
def test_cutting_and_joining_gives_every_row_once_in_order(rows: int, sizes: set[int]) -> None:
    wide = tuple(replace(one, largest=(ANY, 64)) for one in signature().inputs)
    made = with_shapes(signature(inputs=wide, profiles=()), tuple((size, 4) for size in sizes))
    ids = np.arange(rows * 4).reshape(rows, 4)
    pieces = list(cut_rows({"ids": ids, "mask": ids}, 4, batch_sizes(made)))
    assert all(len(piece.feeds["ids"]) in sizes for piece in pieces)
    doubled = [({"tokens": 2 * piece.feeds["ids"][..., None]}, piece.rows) for piece in pieces]
    assert (join_rows(doubled, made)["tokens"][..., 0] == 2 * ids).all()


def test_a_batch_that_runs_as_it_is_is_not_copied() -> None:
    ids = np.zeros((3, 4), np.int64)
    given_feeds = {"ids": ids, "mask": ids}
    (piece,) = cut_rows(given_feeds, 4, batch_sizes(signature()))
    assert piece.feeds is given_feeds


def test_rows_that_fill_a_batch_are_copies_of_real_ones() -> None:
    made = with_shapes(signature(), ((4, 16),))
    ids = np.arange(32).reshape(2, 16)
    (piece,) = cut_rows({"ids": ids, "mask": ids}, 16, batch_sizes(made))
    assert (piece.feeds["ids"][2:] == ids[0]).all()


def test_an_output_without_a_row_per_sample_cannot_be_cut() -> None:
    made = signature(outputs=(TensorInfo("total", "float32", ("other",)),))
    with pytest.raises(RequestError, match="no row per sample"):
        join_rows([({"total": np.zeros(8)}, 3)], made)


def test_an_output_of_fixed_size_is_left_alone() -> None:
    made = signature(outputs=(TensorInfo("table", "float32", (7,)),))
    assert join_rows([({"table": np.zeros(7)}, 3)], made)["table"].shape == (7,)


def test_memory_of_a_gpu_is_not_cut() -> None:
    class OnCard:
        __cuda_array_interface__: ClassVar = {"shape": (9, 4)}

    with pytest.raises(RequestError, match="memory of a GPU"):
        list(cut_rows({"ids": OnCard()}, 4, batch_sizes(signature())))
