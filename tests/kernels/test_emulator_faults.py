"""The plain emulator stops a kernel that breaks a rule, and says which rule and where."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.kernels.emulator import Emulator
from tests.kernels.micro_run import MICRO_FOLDER
from tests.kernels.report import FaultKind, KernelFault
from tests.kernels.tools import needs_gxx
from trt_int8.plugins.kernel import Argument, Input, KernelLaunch, KernelVariant, Output

pytestmark = needs_gxx

THREADS = 64


def faulty(entry: str, *, sm: int = 80, file: str = "faulty.cu") -> KernelLaunch:
    variant = KernelVariant(str(MICRO_FOLDER / file), entry, sm)
    return KernelLaunch(variant, (1, 1, 1), THREADS, 1024 if of_bytes(entry) else 4 * THREADS)


def of_bytes(entry: str) -> bool:
    """Whether the kernel moves 16 bytes a thread and not one int."""
    return entry.startswith("copy") or entry == "row_outside"


def arguments(entry: str, *, wrong: int) -> list[Argument]:
    words = 4 * THREADS if of_bytes(entry) else THREADS
    x = np.arange(words, dtype=np.int32)
    return [Input(x), wrong, Output(np.zeros_like(x))]


def fault(entry: str, *, seed: int = 0, sm: int = 80) -> KernelFault:
    with pytest.raises(KernelFault) as stopped:
        Emulator().run(faulty(entry, sm=sm), arguments(entry, wrong=1), seed=seed)
    return stopped.value


# Kernel, kind, what the sentence must hold.
SEEN: list[tuple[str, FaultKind, str]] = [
    ("barrier_in_a_branch", "divergence", r"thread \d+ of block \(0, 0, 0\) waits in sync_threads"),
    ("return_before_barrier", "divergence", r"waits in sync_threads at faulty.cu:\d+, but thread"),
    ("two_barriers", "divergence", r"reaches sync_threads at faulty.cu:\d+, but thread \d+ waits"),
    ("shuffle_in_a_branch", "divergence", r"a shuffle at faulty.cu:\d+, but thread \d+"),
    ("shuffle_or_vote", "divergence", r"a vote at faulty.cu:\d+, but thread 0 waits in a shuffle"),
    ("shuffle_or_barrier", "divergence", r"sync_threads at faulty.cu:\d+"),
    ("store_past_the_end", "out_of_bounds", r"byte 256 of argument 2 'y' \(output\).* has 256"),
    ("store_before_the_start", "out_of_bounds", r"byte -1 of argument 2 'y' \(output\)"),
    ("store_to_an_input", "read_only", r"byte 20 of argument 0 'x' \(input\)"),
    ("shared_past_the_end", "out_of_bounds", r"hit byte 256 of shared memory, which has 256"),
    ("stray_pointer", "crash", r"thread 9 of block \(0, 0, 0\) touched memory that is nobody's"),
    ("divide_by_zero", "crash", r"thread 0 .* divided an integer by zero"),
    (
        "misaligned_word",
        "misaligned",
        r"thread 0 .*faulty.cu:\d+ accesses byte 4 of argument 0 'x'",
    ),
    ("copy_left_under_way", "in_flight", r"thread 0 .* returned with cp.async copies"),
    (
        "copy_from_outside",
        "out_of_bounds",
        r"cp_async_16 at faulty.cu:\d+ of thread 63 .* byte 1024",
    ),
    (
        "copy_to_outside",
        "out_of_bounds",
        r"thread 63 .* byte 1024 of shared memory, which has 1024",
    ),
    ("copy_too_much", "undefined", r"asks for 17 valid bytes, wanted 0 to 16"),
    (
        "row_outside",
        "out_of_bounds",
        r"ldmatrix at faulty.cu:\d+ .*: the row of lane 31 is byte 1024",
    ),
]


@pytest.mark.parametrize(("entry", "kind", "sentence"), SEEN, ids=[row[0] for row in SEEN])
@pytest.mark.parametrize("seed", [0, 1, 4])
def test_a_broken_rule_is_told(entry: str, kind: FaultKind, sentence: str, seed: int) -> None:
    told = fault(entry, seed=seed)
    assert told.kind == kind
    # Which thread is met first depends on the schedule; the numbers above are those of seed 0.
    if seed == 0:
        assert re.search(sentence, str(told)), str(told)


ALL = [*(row[0] for row in SEEN), "copy_waited_too_weakly", "load_past_the_end", "endless"]


@pytest.mark.parametrize("entry", [*ALL, "int_overflow", "float_too_large"])
def test_the_same_kernel_without_the_mistake_runs(entry: str) -> None:
    for seed in range(5):
        given = arguments(entry, wrong=0)
        Emulator().run(faulty(entry), given, seed=seed)


def test_an_endless_kernel_is_stopped_by_the_clock() -> None:
    with pytest.raises(KernelFault, match=r"endless did not end within 0\.5 seconds") as stopped:
        Emulator(timeout_seconds=0.5).run(faulty("endless"), arguments("endless", wrong=1))
    assert stopped.value.kind == "limit"


# What only a sanitizer sees; here it runs through (test_emulator_sanitizers.py has the other half).
UNSEEN = ("load_past_the_end", "int_overflow", "float_too_large")


@pytest.mark.parametrize("entry", UNSEEN)
def test_the_plain_emulator_is_known_not_to_see(entry: str) -> None:
    Emulator().run(faulty(entry), arguments(entry, wrong=1))


@pytest.mark.parametrize("seed", [0, 1, 2, 4])
def test_a_wait_for_all_but_one_group_leaves_the_only_one_under_way(seed: int) -> None:
    x = np.arange(4 * THREADS, dtype=np.int32)
    y = np.zeros_like(x)
    given: list[Argument] = [Input(x), 1, Output(y)]
    Emulator().run(faulty("copy_waited_too_weakly"), given, seed=seed)
    # Every third seed lets copies land at once, and then the mistake does not show.
    assert (y == x).all() if seed % 3 == 2 else (y == 0x5A5A5A5A).all()


def test_copies_of_sm75_are_made_at_once_and_cannot_be_left_under_way() -> None:
    given = arguments("copy_left_under_way", wrong=1)
    Emulator().run(faulty("copy_left_under_way", sm=75), given)


def test_arguments_of_another_number_are_refused() -> None:
    with pytest.raises(KernelFault, match="has 3 parameters, but got 2 arguments") as stopped:
        Emulator().run(faulty("endless"), arguments("endless", wrong=0)[:2])
    assert stopped.value.kind == "launch"


def test_an_argument_of_another_kind_is_refused() -> None:
    x, wrong, y = arguments("endless", wrong=0)
    with pytest.raises(
        KernelFault, match=r"parameter 0 .*pointer to const.* got a pointer \(Output"
    ):
        Emulator().run(faulty("endless"), [y, wrong, x])


def test_a_block_with_half_a_warp_cannot_shuffle() -> None:
    launch = faulty("shuffle_in_a_branch")
    half = KernelLaunch(launch.variant, launch.grid, 48, launch.shared_bytes)
    with pytest.raises(KernelFault, match="48 threads leaves that warp without all") as stopped:
        Emulator().run(half, arguments("shuffle_in_a_branch", wrong=0))
    assert stopped.value.kind == "launch"


@pytest.mark.parametrize(
    ("grid", "block", "shared_bytes", "sentence"),
    [
        ((1, 1, 1), 1025, 0, "1025 threads"),
        ((1, 1, 1), 0, 0, "0 threads"),
        ((0, 1, 1), 32, 0, r"grid \(0, 1, 1\)"),
        ((1, 65536, 1), 32, 0, r"grid \(1, 65536, 1\)"),
        ((1, 1, 1), 32, 49153, "49153 bytes of shared memory"),
    ],
)
def test_a_launch_that_no_gpu_takes_is_refused(
    grid: tuple[int, int, int], block: int, shared_bytes: int, sentence: str
) -> None:
    launch = KernelLaunch(faulty("endless").variant, grid, block, shared_bytes)
    with pytest.raises(KernelFault, match=sentence) as stopped:
        Emulator().run(launch, arguments("endless", wrong=0))
    assert stopped.value.kind == "launch"


def test_a_kernel_that_is_not_in_the_source_is_refused() -> None:
    with pytest.raises(
        KernelFault, match="no_such_kernel: the source has no such kernel"
    ) as stopped:
        Emulator().run(faulty("no_such_kernel"), [])
    assert stopped.value.kind == "load"


def test_a_source_that_is_not_there_is_refused() -> None:
    with pytest.raises(KernelFault, match=r"there is no kernel source .*missing\.cu") as stopped:
        Emulator().run(faulty("endless", file="missing.cu"), [])
    assert stopped.value.kind == "load"
