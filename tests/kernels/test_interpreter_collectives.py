"""Shuffles, votes and reductions of the interpreter, and the lanes they need."""

from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.report import KernelFault
from tests.kernels.snippets import Array, each, integers, launch, pointer_loads, run
from tests.kernels.tools import needs_gxx
from trt_int8.plugins.kernel import Output

pytestmark = needs_gxx

LANE = np.arange(32)


def source_lane(mode: str, lane: int, amount: int, width: int) -> int:
    """The lane that CUDA's __shfl_*_sync reads with segments of `width` lanes.

    A butterfly may reach into an earlier segment, not into a later one (CUDA C++ Programming
    Guide, "Warp Shuffle Functions").
    """
    first = lane // width * width
    wanted = {
        "up": lane - amount,
        "down": lane + amount,
        "bfly": lane ^ amount,
        "idx": first + amount % width,
    }[mode]
    outside = (wanted < first and mode != "bfly") or wanted >= first + width
    return lane if outside else wanted


@pytest.mark.parametrize("mode", ["up", "down", "bfly", "idx"])
@pytest.mark.parametrize("width", [32, 8, 2])
@pytest.mark.parametrize("amount", [0, 1, 3, 5, 16, 31])
def test_shuffle_reads_the_lane_that_cuda_names(mode: str, width: int, amount: int) -> None:
    a = integers(np.uint32, count=96, seed=amount)
    # CUDA's intrinsics make this control word from the width (CUDA header sm_30_intrinsics).
    control = (32 - width) << 8 | (0 if mode == "up" else 31)
    code = f"shfl.sync.{mode}.b32 %d|%p, %a, {amount}, {control}, -1;"
    expected = [a[i // 32 * 32 + source_lane(mode, i % 32, amount, width)] for i in range(96)]
    assert each(code, [a], np.uint32).tolist() == expected


def test_shuffle_tells_whether_its_source_was_in_range() -> None:
    a = integers(np.uint32, count=64, seed=1)
    code = "shfl.sync.down.b32 %t|%p, %a, 4, 31, -1; selp.u32 %d, 1, 0, %p;"
    assert np.array_equal(each(code, [a], np.uint32), np.tile(LANE + 4 < 32, 2))


@pytest.mark.parametrize("pattern", [0, 1, 0x80000000, 0xFFFFFFFF, 0x0F0F1234])
def test_votes_count_the_lanes_of_their_warp(pattern: int) -> None:
    a = (np.uint32(pattern) >> LANE.astype(np.uint32) & 1).astype(np.uint32)
    read = "setp.ne.u32 %p, %a, 0;"
    votes = {"all": a.all(), "any": a.any(), "uni": a.all() or not a.any()}
    for name, expected in votes.items():
        code = f"{read} vote.sync.{name}.pred %q, %p, -1; selp.u32 %d, 1, 0, %q;"
        assert each(code, [a], np.uint32).tolist() == [int(expected)] * 32
    ballot = each(f"{read} vote.sync.ballot.b32 %d, !%p, -1;", [a], np.uint32)
    assert ballot.tolist() == [~pattern & 0xFFFFFFFF] * 32


REDUCTIONS: dict[str, np.ufunc] = {"add": np.add, "min": np.minimum, "max": np.maximum}


@pytest.mark.parametrize("kind", ["s32", "u32"])
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions_give_every_lane_the_total(name: str, kind: str) -> None:
    a = integers(np.int32 if kind == "s32" else np.uint32, count=64, seed=2)
    totals = REDUCTIONS[name].reduce(a.reshape(2, 32), axis=1, dtype=a.dtype)
    out = each(f"redux.sync.{name}.{kind} %d, %a, -1;", [a], a.dtype)
    assert np.array_equal(out, np.repeat(totals, 32))


def test_bitwise_reductions() -> None:
    a = integers(np.uint32, count=64, seed=3)
    for name, ufunc in {"and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor}.items():
        out = each(f"redux.sync.{name}.b32 %d, %a, -1;", [a], np.uint32)
        assert np.array_equal(out, np.repeat(ufunc.reduce(a.reshape(2, 32), axis=1), 32))


def test_active_mask_names_the_lanes_of_a_branch() -> None:
    code = """
    setp.lt.u32 %p, %a, 5;
    @%p bra FEW;
    activemask.b32 %d;
    bra DONE;
    FEW: activemask.b32 %d;
    DONE:"""
    out = each(code, [LANE.astype(np.uint32)], np.uint32)
    assert out.tolist() == [0x1F] * 5 + [0xFFFFFFE0] * 27


DIVERGENT = """
.reg .pred %p; .reg .b32 %lane, %v; .reg .b64 %at;
mov.u32 %lane, %tid.x;
mad.wide.u32 %at, %lane, 4, %ptr0;
setp.lt.u32 %p, %lane, 16;
@%p bra HALF;
bra DONE;
HALF: COLLECTIVE
DONE: st.global.u32 [%at], %lane;
ret;"""


def run_divergent(collective: str) -> Array:
    out = np.zeros(32, np.uint32)
    run(pointer_loads(1) + DIVERGENT.replace("COLLECTIVE", collective), [Output(out)], launch())
    return out


@pytest.mark.parametrize(
    "collective",
    [
        "shfl.sync.bfly.b32 %v, %lane, 1, 31, -1;",
        "vote.sync.ballot.b32 %v, %p, -1;",
        "bar.warp.sync -1;",
        "bar.sync 0;",
        "movmatrix.sync.aligned.m8n8.trans.b16 %v, %lane;",
    ],
)
def test_a_collective_of_the_whole_warp_in_half_of_it_is_a_fault(collective: str) -> None:
    with pytest.raises(KernelFault) as raised:
        run_divergent(collective)
    assert raised.value.kind == "divergence"


def test_a_collective_may_name_the_half_that_runs_it() -> None:
    assert run_divergent("shfl.sync.bfly.b32 %v, %lane, 1, 31, 0xFFFF;")[3] == 3


def test_a_shuffle_from_a_lane_outside_its_mask_is_a_fault() -> None:
    with pytest.raises(KernelFault, match="takes no part") as raised:
        run_divergent("shfl.sync.bfly.b32 %v, %lane, 16, 31, 0xFFFF;")
    assert raised.value.kind == "divergence"
