from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_int8.errors import RequestError, SessionError
from trt_int8.runtime.backend import Feeds, Outputs
from trt_int8.runtime.buckets import buckets_of
from trt_int8.runtime.fixed import (
    Piece,
    any_batch,
    cut_rows,
    for_cpu,
    join_rows,
    run_pieces,
    run_sizes,
    with_shapes,
)
from trt_int8.runtime.packing import batch_sizes
from trt_int8.runtime.pool import WorkerPool
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


def test_half_precision_is_float32_on_a_cpu() -> None:
    half = TensorInfo("x", "float16", ("batch", 3), (1, 3), (8, 3))
    made = for_cpu(signature(inputs=(half,), outputs=(half, *signature().outputs), token_axes={}))
    assert {one.dtype for one in (*made.inputs, *made.outputs)} == {"float32"}
    assert for_cpu(signature()).inputs[0].dtype == "int64"


def test_a_fixed_batch_stays_fixed_on_a_cpu() -> None:
    fixed = tuple(replace(one, axes=(8, "seq"), smallest=(8, 2)) for one in signature().inputs)
    assert for_cpu(signature(inputs=fixed)).inputs[0].largest == (8, 64)


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
    doubled = [({"tokens": 2 * piece.feeds["ids"][..., None]}, piece) for piece in pieces]
    assert (join_rows(doubled, made)["tokens"][..., 0] == 2 * ids).all()


def test_a_huge_batch_is_cut_on_a_cpu_unless_its_outputs_could_not_be_joined() -> None:
    made = for_cpu(signature())
    ids = np.zeros((3000, 64), np.int64)
    pieces = list(cut_rows({"ids": ids, "mask": ids}, 64, run_sizes(made, "cpu")))
    assert [piece.rows for piece in pieces] == [512] * 5 + [440]
    assert run_sizes(made, "cpu").most(8) == 8 * 512
    turned = replace(made, outputs=(TensorInfo("turned", "float32", ("seq", "batch")),))
    assert run_sizes(turned, "cpu").most(64) == ANY
    assert run_sizes(made, "cuda").most(64) == ANY
    assert run_sizes(with_shapes(made, ((9000, 64),)), "cpu").most(64) == 9000


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
        join_rows([({"total": np.zeros(5)}, Piece({}, 3, 8))], made)


def test_an_output_of_fixed_size_is_left_alone() -> None:
    made = signature(outputs=(TensorInfo("table", "float32", (7,)),))
    assert join_rows([({"table": np.zeros(7)}, Piece({}, 3, 8))], made)["table"].shape == (7,)


def test_memory_of_a_gpu_is_not_cut() -> None:
    class OnCard:
        __cuda_array_interface__: ClassVar = {"shape": (9, 4)}

    with pytest.raises(RequestError, match="memory of a GPU"):
        list(cut_rows({"ids": OnCard()}, 4, batch_sizes(signature())))


@given(rows=st.integers(1, 20))
def test_any_number_of_rows_is_cut_and_filled_to_a_batch_of_one_size(rows: int) -> None:
    fixed = tuple(replace(one, axes=(8, "seq"), smallest=(8, 2)) for one in signature().inputs)
    made = signature(
        inputs=fixed, outputs=(TensorInfo("tokens", "float32", (8, "seq", 1)),), profiles=()
    )
    assert any_batch(made).inputs[0].smallest[0] == 1
    ids = np.arange(rows * 4).reshape(rows, 4)
    pieces = list(cut_rows({"ids": ids, "mask": ids}, 4, batch_sizes(made)))
    assert {len(piece.feeds["ids"]) for piece in pieces} == {8}
    found = join_rows([({"tokens": 3 * one.feeds["ids"][..., None]}, one) for one in pieces], made)
    assert (found["tokens"][..., 0] == 3 * ids).all()


def test_a_batch_axis_of_another_name_is_cut_where_its_size_is_that_of_the_batch() -> None:
    made = signature(outputs=(TensorInfo("means", "float32", ("Mean_dim_0", 2)),))
    found = join_rows([({"means": np.arange(8).reshape(4, 2)}, Piece({}, 3, 4))], made)
    assert found["means"].tolist() == [[0, 1], [2, 3], [4, 5]]


def test_tokens_in_the_first_axis_are_never_taken_for_rows() -> None:
    made = signature(outputs=(TensorInfo("turned", "float32", ("seq", "batch")),))
    array = np.zeros((4, 4))
    with pytest.raises(RequestError, match="no row per sample"):
        join_rows([({"turned": array}, Piece({}, 3, 4))], made)
    assert join_rows([({"turned": array}, Piece({}, 4, 4, as_sent=True))], made)["turned"] is array
    padded = [({"turned": np.zeros((8, 3))}, Piece({}, 3, 3, as_sent=True))]
    assert join_rows(padded, made, padded=True)["turned"].shape == (8, 3)


def test_padding_that_cannot_be_cut_off_is_an_error() -> None:
    made = signature(outputs=(TensorInfo("flat", "float32", ("rows", 3)),))
    piece = Piece({}, 3, 3, as_sent=True)
    join_rows([({"flat": np.zeros((3, 3))}, piece)], made, padded=True)
    join_rows([({"flat": np.zeros((24, 3))}, piece)], made)
    with pytest.raises(SessionError, match=r"'flat' has the shape \[24, 3\] for 3"):
        join_rows([({"flat": np.zeros((24, 3))}, piece)], made, padded=True)


@dataclass
class Pooled:
    """A backend that gives back what it gets, and refuses 2."""

    workers: int
    pool: WorkerPool
    name: str = "pooled"

    def run(self, feeds: Feeds) -> Outputs:
        return self.pool.run(feeds)

    def submit(self, feeds: Feeds) -> Future[Outputs]:
        return self.pool.submit(feeds)

    def close(self) -> None:
        self.pool.close()


def not_2(_worker: int, feeds: Feeds) -> Outputs:
    if feeds["x"] == 2:
        raise SessionError("2", wanted="another", todo="send one")
    return dict(feeds)


@pytest.mark.parametrize("workers", [1, 2])
def test_pieces_come_back_in_order_and_an_error_is_the_request_s(pools: Any, workers: int) -> None:
    backend = Pooled(workers, pools(not_2, workers))
    pieces = [Piece({"x": number}, 1, 1) for number in (5, 9, 0, 2, 7, 8)]
    assert [one["x"] for one in run_pieces(backend, pieces[:3])] == [5, 9, 0]
    with pytest.raises(SessionError, match="2"):
        run_pieces(backend, pieces)


def test_workers_in_callbacks_do_not_wait_for_each_other_s_pieces(pools: Any) -> None:
    meet, done = threading.Barrier(2), threading.Semaphore(0)

    def run_more(_future: object) -> None:
        meet.wait(20)
        run_pieces(backend, [Piece({"x": number}, 1, 1) for number in (3, 4, 5)])
        done.release()

    go_on = threading.Event()
    pool = pools(lambda _worker, feeds: go_on.wait(20) and dict(feeds), 2)
    backend = Pooled(2, pool)
    for _ in range(2):
        backend.submit({"x": 1}).add_done_callback(run_more)
    go_on.set()
    assert done.acquire(timeout=20)
    assert done.acquire(timeout=20)
