"""Races in shared memory and copies in flight, as the interpreter sees them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.report import FaultKind, KernelFault, RunReport
from tests.kernels.snippets import launch, pointer_loads, run
from tests.kernels.tools import needs_gxx
from trt_int8.plugins.kernel import Input, Output

pytestmark = needs_gxx

START = """
.reg .pred %p; .reg .b32 %lane, %s, %n, %r<4>; .reg .b64 %in, %out;
mov.u32 %lane, %tid.x;
mul.lo.u32 %s, %lane, 4;
xor.b32 %n, %s, NEIGHBOUR;
mad.wide.u32 %in, %lane, 16, %ptr0;
mad.wide.u32 %out, %lane, 4, %ptr1;
mov.u32 %r0, %lane;
mov.u32 %r1, 0;
"""
END = "st.global.u32 [%out], %r1; ret;"
BLOCK = "bar.sync 0;"
WARP = "bar.warp.sync -1;"
WRITE = "st.shared.u32 [%s], %r0;"
READ = "ld.shared.u32 %r1, [%n];"
# The neighbour's word: in the same warp, or in the other warp of the block.
SAME_WARP, OTHER_WARP = 4, 128


def run_shared(body: str, neighbour: int = SAME_WARP) -> tuple[np.ndarray, RunReport]:
    source = np.arange(64 * 4, dtype=np.uint32)
    out = np.zeros(64, np.uint32)
    code = pointer_loads(2) + START.replace("NEIGHBOUR", str(neighbour)) + body + END
    report = run(code, [Input(source), Output(out)], launch(64, shared_bytes=1024))
    return out, report


def kind_of(body: str, neighbour: int) -> FaultKind | None:
    """The fault of a body, None if it runs."""
    try:
        run_shared(body, neighbour)
    except KernelFault as fault:
        return fault.kind
    return None


@pytest.mark.parametrize("neighbour", [SAME_WARP, OTHER_WARP])
def test_a_block_barrier_orders_everything(neighbour: int) -> None:
    out, _ = run_shared(WRITE + BLOCK + READ + BLOCK + WRITE, neighbour)
    assert np.array_equal(out, np.arange(64) ^ neighbour // 4)


def test_a_warp_barrier_orders_its_own_warp_only() -> None:
    body = WRITE + WARP + READ + WARP + WRITE
    assert kind_of(body, SAME_WARP) is None
    assert kind_of(WRITE + WARP + READ, OTHER_WARP) in ("race", "uninitialised")


@pytest.mark.parametrize("neighbour", [SAME_WARP, OTHER_WARP])
def test_a_read_after_a_write_without_a_barrier_is_a_race(neighbour: int) -> None:
    assert kind_of(WRITE + BLOCK + WRITE + READ, neighbour) == "race"


@pytest.mark.parametrize("neighbour", [SAME_WARP, OTHER_WARP])
def test_a_write_after_a_read_without_a_barrier_is_a_race(neighbour: int) -> None:
    assert kind_of(WRITE + BLOCK + READ + WRITE, neighbour) == "race"


def test_two_writers_of_a_byte_are_a_race() -> None:
    with pytest.raises(KernelFault, match="written by thread 0") as raised:
        run_shared("st.shared.u32 [0], %r0;")
    assert raised.value.kind == "race"
    assert "thread 1," in str(raised.value)


def test_many_readers_of_a_word_are_no_race_until_one_of_them_writes() -> None:
    first = "setp.eq.u32 %p, %lane, 0; @%p st.shared.u32 [0], %r0;"
    assert kind_of(first + BLOCK + "ld.shared.u32 %r1, [0];", SAME_WARP) is None
    again = "ld.shared.u32 %r1, [0]; @%p st.shared.u32 [0], %r0;"
    assert kind_of(first + BLOCK + again, SAME_WARP) == "race"


def test_readers_of_several_warps_are_all_remembered() -> None:
    write = "setp.eq.u32 %p, %lane, 40; @%p st.shared.u32 [0], %r0; "
    both = "setp.eq.u32 %p, %lane, 3; @%p ld.shared.u32 %r1, [0]; "
    both += "setp.eq.u32 %p, %lane, 40; @%p ld.shared.u32 %r1, [0]; "
    assert kind_of(write + BLOCK + both + write, SAME_WARP) == "race"
    assert kind_of(write + BLOCK + both + BLOCK + write, SAME_WARP) is None


def test_a_thread_may_use_its_own_word_without_barriers() -> None:
    own = "ld.shared.u32 %r1, [%s]; " + WRITE
    assert kind_of(WRITE + own * 3, SAME_WARP) is None


def test_bytes_of_a_word_are_watched_apart() -> None:
    body = """.reg .b32 %b; mov.u32 %b, %tid.x;
    st.shared.u8 [%b], %r0; ld.shared.u8 %r1, [%b];"""
    out, _ = run_shared(body)
    assert np.array_equal(out, np.arange(64))
    assert kind_of(body + "ld.shared.u32 %r1, [0];", SAME_WARP) == "race"
    assert kind_of(body + BLOCK + "ld.shared.u32 %r1, [0];", SAME_WARP) is None


def test_ldmatrix_reads_on_behalf_of_the_whole_warp() -> None:
    rows = """.reg .b32 %row; shl.b32 %row, %lane, 4;
    st.shared.v4.u32 [%row], {%r0, %r0, %r0, %r0}; SYNC
    ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r0, %r1, %r2, %r3}, [%row];"""
    assert kind_of(rows.replace("SYNC", ""), SAME_WARP) == "race"
    assert kind_of(rows.replace("SYNC", WARP), SAME_WARP) is None
    write_back = " st.shared.u32 [%row], %r0;"
    assert kind_of(rows.replace("SYNC", WARP) + write_back, SAME_WARP) == "race"
    by_one = WARP + "setp.eq.u32 %p, %lane, 0; @%p st.shared.u32 [0], %r0;"
    assert kind_of(rows.replace("SYNC", by_one), SAME_WARP) == "race"
    assert kind_of(rows.replace("SYNC", by_one + WARP), SAME_WARP) is None


COPY = """.reg .b32 %row; shl.b32 %row, %lane, 4;
cp.async.cg.shared.global [%row], [%in], 16;
cp.async.commit_group;
"""
LAND = "cp.async.wait_group 0;"
READ_OWN = "ld.shared.u32 %r1, [%row];"


def test_a_copy_is_there_after_its_wait() -> None:
    out, report = run_shared(COPY + LAND + READ_OWN)
    assert np.array_equal(out, np.arange(64) * 4)
    assert report.global_sectors_per_request["cp.async"] == 16


@pytest.mark.parametrize("wait", ["", "cp.async.wait_group 1;", BLOCK])
def test_a_copy_is_not_touched_before_its_wait(wait: str) -> None:
    assert kind_of(COPY + wait + READ_OWN + LAND, SAME_WARP) == "in_flight"
    write = "st.shared.u32 [%row], %r0;"
    assert kind_of(COPY + wait + write + LAND, SAME_WARP) == "in_flight"


def test_a_wait_makes_a_copy_visible_to_its_own_thread_only() -> None:
    read_other = ".reg .b32 %o; xor.b32 %o, %row, 16; ld.shared.u32 %r1, [%o];"
    assert kind_of(COPY + LAND + read_other, SAME_WARP) == "race"
    assert kind_of(COPY + LAND + BLOCK + read_other, SAME_WARP) is None


def test_older_groups_land_first() -> None:
    def copy(place: int) -> str:
        target = f"[%half+{512 * place}], [%in+{8 * place}], 8"
        return f"cp.async.ca.shared.global {target}; cp.async.commit_group;"

    two = ".reg .b32 %half; shl.b32 %half, %lane, 3;" + copy(0) + copy(1) + "cp.async.wait_group 1;"
    assert kind_of(two + "ld.shared.u32 %r1, [%half];" + LAND, SAME_WARP) is None
    assert kind_of(two + "ld.shared.u32 %r1, [%half+512];" + LAND, SAME_WARP) == "in_flight"


def test_no_copy_may_be_left_at_the_end() -> None:
    assert kind_of(COPY, SAME_WARP) == "in_flight"
    assert kind_of(COPY.replace("cp.async.commit_group;", "") + "cp.async.wait_all;", 4) is None


def test_a_copy_into_words_that_others_still_read_is_a_race() -> None:
    fill = ".reg .b32 %row; shl.b32 %row, %lane, 4; st.shared.v4.u32 [%row], {%r0, %r0, %r0, %r0};"
    read = ".reg .b32 %o; xor.b32 %o, %row, 512; ld.shared.u32 %r1, [%o];"
    copy = "cp.async.cg.shared.global [%row], [%in], 16; cp.async.wait_all;"
    assert kind_of(fill + BLOCK + read + copy, SAME_WARP) == "race"
    assert kind_of(fill + BLOCK + read + BLOCK + copy, SAME_WARP) is None


# Lanes below 5 copy SIZE bytes from far outside the tensor, the others 16, the last only 4.
PARTIAL = """.reg .b32 %row, %size, %last; .reg .b64 %far; shl.b32 %row, %lane, 4;
setp.lt.u32 %p, %lane, 63; selp.u32 %size, 16, 4, %p;
setp.lt.u32 %p, %lane, 5; selp.u32 %size, SIZE, %size, %p;
add.u64 %far, %in, 4096; selp.u64 %in, %far, %in, %p;
cp.async.cg.shared.global [%row], [%in], 16, %size;
cp.async.wait_all;
ld.shared.u32 %r1, [%row]; ld.shared.u32 %last, [%row+12]; add.u32 %r1, %r1, %last;"""


def test_bytes_beyond_the_source_size_become_zero_and_are_not_read() -> None:
    out, _ = run_shared(PARTIAL.replace("SIZE", "0"))
    first = np.arange(64) * 4
    expected = 2 * first + 3
    expected[:5] = 0
    expected[63] = first[63]
    assert np.array_equal(out, expected)


def test_bytes_within_the_source_size_must_be_in_the_tensor() -> None:
    assert kind_of(PARTIAL.replace("SIZE", "4"), SAME_WARP) == "out_of_bounds"


def test_a_copy_has_4_8_or_16_bytes() -> None:
    assert kind_of(COPY.replace(", 16;", ", 32;"), SAME_WARP) == "undefined"


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("rwbs"), st.integers(0, 3), st.sampled_from([0, 4, 128])),
        min_size=1,
        max_size=7,
    )
)
def test_a_race_is_two_unordered_accesses_of_which_one_writes(
    steps: list[tuple[str, int, int]],
) -> None:
    """Reads and writes of each thread's or a neighbour's slot, mixed with barriers, any order."""
    code = "".join(f"st.shared.u32 [%s+{256 * slot}], %r0; " for slot in range(4)) + BLOCK
    for action, slot, other in steps:
        at = f".reg .b32 %u; xor.b32 %u, %s, {other};"
        text = {
            "r": f"{{ {at} ld.shared.u32 %r1, [%u+{256 * slot}]; }}",
            "w": f"{{ {at} st.shared.u32 [%u+{256 * slot}], %r0; }}",
            "b": BLOCK,
            "s": WARP,
        }
        code += text[action]
    expected = any(
        unordered(steps[i : j + 1]) for i, j in itertools.combinations(range(len(steps)), 2)
    )
    assert kind_of(code, SAME_WARP) == ("race" if expected else None)


def unordered(steps: list[tuple[str, int, int]]) -> bool:
    """Do the first and the last step race, by the definition?"""
    (first, slot, other), (last, last_slot, last_other) = steps[0], steps[-1]
    if slot != last_slot or "w" not in (first, last) or not {first, last} <= {"r", "w"}:
        return False
    between = {action for action, _, _ in steps[1:-1]}
    distance = other ^ last_other
    if distance == 0 or "b" in between:
        return False  # the same thread, or a block barrier
    return distance >= 128 or "s" not in between
