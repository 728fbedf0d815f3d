"""Branches, loops and barriers of the interpreter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.report import KernelFault
from tests.kernels.snippets import each, launch, pointer_loads, run
from tests.kernels.tools import needs_gxx
from trt_int8.plugins.kernel import Output

pytestmark = needs_gxx


LANES = np.arange(32, dtype=np.uint32)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 40), min_size=32, max_size=32))
def test_lanes_may_loop_different_times(counts: list[int]) -> None:
    code = """
    .reg .b32 %k;
    mov.u32 %d, 0; mov.u32 %k, %a;
    AGAIN: setp.eq.u32 %p, %k, 0; @%p bra OUT;
    add.u32 %d, %d, %k; sub.u32 %k, %k, 1; bra AGAIN;
    OUT:"""
    out = each(code, [np.array(counts, np.uint32)], np.uint32)
    assert out.tolist() == [n * (n + 1) // 2 for n in counts]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_paths_that_part_meet_again(outer: int, inner: int) -> None:
    """After nested branches the whole warp can shuffle: nobody was left behind."""
    code = f"""
    shr.u32 %d, {outer}, %a; and.b32 %d, %d, 1; setp.ne.u32 %p, %d, 0;
    shr.u32 %t, {inner}, %a; and.b32 %t, %t, 1; setp.ne.u32 %q, %t, 0;
    mov.u32 %t, 1;
    @!%p bra FALSE_;
    mov.u32 %t, 10;
    @!%q bra BOTH;
    add.u32 %t, %t, 100;
    BOTH: add.u32 %t, %t, 1000;
    FALSE_: shfl.sync.bfly.b32 %d, %t, 1, 31, -1;"""
    taken, again = (outer >> LANES & 1).astype(bool), (inner >> LANES & 1).astype(bool)
    value = np.where(taken, 1010 + 100 * again, 1)
    assert np.array_equal(each(code, [LANES], np.uint32), value[LANES ^ 1])


def test_a_guard_writes_its_own_lanes_only() -> None:
    code = """setp.lt.u32 %p, %a, 9; mov.u32 %d, 1;
    @%p mov.u32 %d, 2; @!%p add.u32 %d, %d, 4;
    @%p setp.eq.u32 %p, %a, 3; @%p add.u32 %d, %d, 100;"""
    assert each(code, [LANES], np.uint32).tolist() == [2, 2, 2, 102] + [2] * 5 + [5] * 23


def test_a_uniform_branch_that_parts_lanes_is_a_fault() -> None:
    with pytest.raises(KernelFault, match="only some") as raised:
        each("setp.lt.u32 %p, %a, 9; @%p bra.uni X; X: mov.u32 %d, %a;", [LANES], "u4")
    assert raised.value.kind == "divergence"


START = ".reg .pred %p; .reg .b32 %t, %s; .reg .b64 %at; mov.u32 %t, %tid.x; "
STORE = "mad.wide.u32 %at, %t, 4, %ptr0; st.global.u32 [%at], %t;"


def run_block(body: str, threads: int) -> np.ndarray:
    out = np.zeros(threads, np.uint32)
    run(pointer_loads(1) + START + body, [Output(out)], launch(threads))
    return out


def test_a_partial_warp_has_only_its_threads() -> None:
    assert np.array_equal(run_block("bar.sync 0;" + STORE, 45), np.arange(45))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        # Threads of a warp, a whole warp, or a whole warp the other way.
        ("setp.lt.u32 %p, %t, 3; @%p bra X; bar.sync 0; X:", "only some lanes"),
        ("setp.lt.u32 %p, %t, 32; @%p ret; bar.sync 0;", "warp 0 has left the kernel"),
        ("setp.ge.u32 %p, %t, 32; @%p ret; bar.sync 0;", "warp 1 has left the kernel"),
        ("setp.lt.u32 %p, %t, 32; @%p bra X; bar.sync 0; bra Y; X: bar.sync 0; Y:", "another"),
    ],
)
def test_a_barrier_that_not_all_reach_is_a_fault(body: str, words: str) -> None:
    with pytest.raises(KernelFault, match=words) as raised:
        run_block(body + STORE, 64)
    assert raised.value.kind == "divergence"


def test_lanes_that_left_before_a_barrier_do_not_count() -> None:
    with pytest.raises(KernelFault, match="only some lanes") as raised:
        run_block("setp.lt.u32 %p, %t, 3; @%p ret; bar.sync 0;" + STORE, 64)
    assert raised.value.kind == "divergence"


def test_an_endless_loop_is_stopped() -> None:
    with pytest.raises(KernelFault, match="more instructions than allowed") as raised:
        run_block("AGAIN: bra AGAIN;", 32)
    assert raised.value.kind == "limit"


def test_blocks_know_their_place_in_the_grid() -> None:
    out = np.zeros((4, 3, 2, 32), np.uint32)
    body = """.reg .b32 %x, %y, %z, %gx, %gy; mov.u32 %x, %ctaid.x; mov.u32 %y, %ctaid.y;
    mov.u32 %z, %ctaid.z; mov.u32 %gx, %nctaid.x; mov.u32 %gy, %nctaid.y;
    mad.lo.u32 %s, %z, %gy, %y; mad.lo.u32 %s, %s, %gx, %x; mov.u32 %x, %ntid.x;
    mad.lo.u32 %t, %s, %x, %t; """
    run(pointer_loads(1) + START + body + STORE, [Output(out)], launch(grid=(2, 3, 4)))
    assert np.array_equal(out.ravel(), np.arange(out.size))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("%laneid", np.arange(64) % 32),
        ("%warpid", np.arange(64) // 32),
        ("%lanemask_lt", 2 ** (np.arange(64) % 32) - 1),
        ("%lanemask_eq", 2 ** (np.arange(64) % 32)),
        ("%lanemask_ge", 2**32 - 2 ** (np.arange(64) % 32)),
        ("%tid.y", np.zeros(64)),
        ("%ntid.x", np.full(64, 64)),
    ],
)
def test_special_registers(name: str, expected: np.ndarray) -> None:
    store = "mad.wide.u32 %at, %t, 4, %ptr0; st.global.u32 [%at], %s;"
    assert np.array_equal(run_block(f"mov.u32 %s, {name}; {store}", 64), expected)
