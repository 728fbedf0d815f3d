"""Address, undefined behaviour and thread sanitizers see what the plain run cannot."""

from __future__ import annotations

import re

import numpy as np
import pytest

from tests.kernels.emulator import Emulator
from tests.kernels.emulator_build import Sanitizer
from tests.kernels.micro_run import MICRO_FOLDER
from tests.kernels.report import FaultKind, KernelFault
from tests.kernels.tools import needs_gxx
from trt_int8.plugins.kernel import Argument, Input, KernelLaunch, KernelVariant, Output

pytestmark = [needs_gxx, pytest.mark.sanitizer]

THREADS = 64
BLOCKS = 5


def launch_of(file: str, entry: str, blocks: int = 1) -> KernelLaunch:
    variant = KernelVariant(str(MICRO_FOLDER / file), entry, 80)
    return KernelLaunch(variant, (blocks, 1, 1), THREADS, 4 * THREADS)


def arguments(*, wrong: int, blocks: int = 1) -> list[Argument]:
    x = np.arange(blocks * THREADS, dtype=np.int32)
    return [Input(x), wrong, Output(np.zeros_like(x))]


ADDRESS: list[tuple[str, FaultKind, str]] = [
    (
        "store_past_the_end",
        "out_of_bounds",
        r"write of 4 bytes at faulty.cu:\d+ by thread 63 of block \(0, 0, 0\) hits byte 256 of "
        r"argument 2 'y' \(output\), which has 256 \(heap-buffer-overflow\)",
    ),
    ("store_before_the_start", "out_of_bounds", r"thread 0 .* byte -4 of argument 2 'y'"),
    ("load_past_the_end", "out_of_bounds", r"read of 4 .* byte 256 of argument 0 'x' \(input\)"),
    ("shared_past_the_end", "out_of_bounds", r"thread 63 .* byte 256 of shared memory, which has"),
    ("stray_pointer", "crash", r"SEGV in an? .*faulty.cu:\d+ by thread 9"),
    ("int_overflow", "undefined", r"signed integer overflow: 1 \+ 2147483647 .* faulty.cu:\d+ by "),
    ("float_too_large", "undefined", r"4e\+09 is outside the range .* faulty.cu:\d+ by thread 0"),
    ("divide_by_zero", "undefined", r"division by zero, at faulty.cu:\d+ by thread 0"),
]


@pytest.mark.parametrize(("entry", "kind", "sentence"), ADDRESS, ids=[row[0] for row in ADDRESS])
def test_the_address_sanitizer_names_line_thread_and_byte(
    entry: str, kind: FaultKind, sentence: str
) -> None:
    with pytest.raises(KernelFault) as stopped:
        Emulator("address").run(launch_of("faulty.cu", entry), arguments(wrong=1))
    assert stopped.value.kind == kind
    assert re.search(sentence, str(stopped.value)), str(stopped.value)


@pytest.mark.parametrize("entry", [row[0] for row in ADDRESS])
def test_the_address_sanitizer_passes_the_same_kernel_without_the_mistake(entry: str) -> None:
    for seed in range(3):
        Emulator("address").run(launch_of("faulty.cu", entry), arguments(wrong=0), seed=seed)


# Kernel and the two accesses that meet, in either order.
RACES = {
    "read_too_early": r"byte \d+ of shared memory.*(read|write) of 4 bytes by thread \d+ of block",
    "overwritten_too_early": r"of shared memory.*at races.cu:\d+, .*at races.cu:\d+, with no",
    "shuffle_is_no_barrier": r"of shared memory, which has 256",
    "mma_is_no_barrier": r"of shared memory, which has 256",
    "warp_barrier_is_no_block_barrier": r"of shared memory, which has 256",
    "blocks_meet": r"of argument 2 'y' \(output\).* of block \(\d, 0, 0\).* of block \(\d, 0, 0\)",
    "one_thread_of_two_blocks": r"of argument 2 'y'.*thread 0 of block .*thread 0 of block",
    "copy_not_yet_shared": r"of shared memory.*at races.cu:\d+",
    "after_one_barrier": r"byte 0 of shared memory",
    "after_one_warp_barrier": r"of shared memory",
}


@pytest.mark.parametrize("entry", RACES)
def test_the_thread_sanitizer_sees_the_race(entry: str) -> None:
    with pytest.raises(KernelFault) as stopped:
        Emulator("thread").run(
            launch_of("races.cu", entry, BLOCKS), arguments(wrong=1, blocks=BLOCKS)
        )
    assert stopped.value.kind == "race"
    assert re.search(RACES[entry], str(stopped.value)), str(stopped.value)


@pytest.mark.parametrize("entry", RACES)
@pytest.mark.parametrize("seed", [0, 1, 5])
def test_the_thread_sanitizer_passes_the_same_kernel_with_its_barrier(
    entry: str, seed: int
) -> None:
    given = arguments(wrong=0, blocks=BLOCKS)
    Emulator("thread").run(launch_of("races.cu", entry, BLOCKS), given, seed=seed)


@pytest.mark.parametrize("sanitizer", [None, "address"])
def test_a_write_after_read_race_is_known_to_be_missed_without_it(
    sanitizer: Sanitizer | None,
) -> None:
    for seed in range(6):
        given = arguments(wrong=1, blocks=BLOCKS)
        launch = launch_of("races.cu", "shuffle_is_no_barrier", BLOCKS)
        Emulator(sanitizer).run(launch, given, seed=seed)


@pytest.mark.parametrize("sanitizer", ["address", "thread"])
def test_faults_of_the_emulator_itself_are_told_under_sanitizers_too(sanitizer: Sanitizer) -> None:
    launch = launch_of("faulty.cu", "shuffle_in_a_branch")
    with pytest.raises(KernelFault) as stopped:
        Emulator(sanitizer).run(launch, arguments(wrong=1))
    assert stopped.value.kind == "divergence"
