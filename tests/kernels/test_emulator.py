"""The emulator runs threads in every order, and leaves nothing for a kernel to lean on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.kernels import emulator
from tests.kernels.emulator import Emulator
from tests.kernels.micro_run import MICRO_FOLDER
from tests.kernels.tools import needs_gxx
from trt_int8.plugins.kernel import Argument, Input, KernelLaunch, KernelVariant, Output

pytestmark = needs_gxx

THREADS = 96


def run(
    entry: str,
    *arguments: Argument,
    seed: int = 0,
    blocks: int = 1,
    sm: int = 80,
    layer: Emulator | None = None,
) -> None:
    variant = KernelVariant(str(MICRO_FOLDER / "schedules.cu"), entry, sm)
    launch = KernelLaunch(variant, (blocks, 1, 1), THREADS, 16 * THREADS)
    (layer or Emulator()).run(launch, arguments, seed=seed)


def order(seed: int) -> list[int]:
    y = np.zeros(THREADS, np.int32)
    run("order_of_threads", Output(np.zeros(1, np.int32)), Output(y), seed=seed)
    return [int(thread) for thread in np.argsort(y)]


def test_seed_0_runs_threads_as_numbered() -> None:
    assert order(0) == list(range(THREADS))


def test_seed_1_runs_threads_reversed() -> None:
    assert order(1) == list(range(THREADS))[::-1]


def test_other_seeds_run_every_thread_in_an_order_of_their_own() -> None:
    orders = [order(seed) for seed in range(2, 8)]
    assert all(sorted(each) == list(range(THREADS)) for each in orders)
    assert len({tuple(each) for each in orders}) == len(orders)


def test_a_seed_gives_the_same_order_again() -> None:
    assert order(5) == order(5)


def most_ahead(seed: int) -> int:
    """Meetings of all warps between the first and the last warp's i-th, at most."""
    y = np.zeros((THREADS // 32, 8), np.int32)
    run("order_of_warps", Output(np.zeros(1, np.int32)), Output(y), seed=seed)
    return int(np.ptp(y, axis=0).max())


def test_a_shuffled_schedule_lets_warps_run_ahead() -> None:
    assert most_ahead(0) < THREADS // 32
    assert all(most_ahead(seed) >= THREADS // 32 + 2 for seed in (2, 3, 5, 10))


def shared_before(seed: int, blocks: int = 1) -> NDArray[Any]:
    y = np.zeros((blocks, THREADS), np.int32)
    run("what_shared_memory_held", Output(y), seed=seed, blocks=blocks)
    return y


def test_shared_memory_holds_other_rubbish_in_each_block_and_seed() -> None:
    seen = np.concatenate([shared_before(seed, blocks=3) for seed in range(3)])
    assert len(np.unique(seen)) == seen.size
    assert not (seen == 0).any()


def test_output_memory_is_poisoned_before_the_kernel_runs() -> None:
    untouched, y = np.zeros(THREADS, np.int32), np.zeros(THREADS, np.int32)
    run("what_output_held", Output(untouched), Output(y))
    assert (y == np.array([0xCDCDCDCD], np.uint32).view(np.int32)).all()
    assert (untouched == y).all()


def copied(seed: int, sm: int = 80) -> bool:
    """Whether every thread saw its 16 bytes before it waited for them."""
    x = np.random.default_rng(1).integers(0, 90, (THREADS, 16)).astype(np.uint8)
    y = np.zeros_like(x)
    run("copy_read_at_once", Input(x), Output(y), seed=seed, sm=sm)
    assert (y == x).all() or (y != x).all()
    return bool((y == x).all())


@pytest.mark.parametrize(("seed", "lands"), [(0, False), (1, False), (2, True), (3, False)])
def test_copies_land_late_but_for_every_third_seed(seed: int, lands: bool) -> None:
    assert copied(seed) == lands


def test_a_copy_of_sm75_is_there_at_once() -> None:
    assert all(copied(seed, sm=75) for seed in range(4))


def test_inputs_may_be_views_with_strides() -> None:
    base = np.arange(2 * 16 * THREADS, dtype=np.uint8).reshape(16 * THREADS, 2)
    x, y = base[:, 1], np.zeros(16 * THREADS, np.uint8)
    run("copy_read_at_once", Input(x), Output(y), seed=2)
    assert np.array_equal(y, x)


def test_an_output_is_filled_in_place_whatever_its_shape() -> None:
    y = np.zeros((2, THREADS // 2), np.int32)
    run("what_shared_memory_held", Output(y))
    assert np.array_equal(y.ravel(), shared_before(0).ravel())


def test_the_context_switch_of_other_processors_gives_the_same() -> None:
    y, z = (np.zeros((THREADS // 32, 8), np.int32) for _ in range(2))
    for result, layer in ((y, Emulator()), (z, Emulator(portable_switch=True))):
        counter = Output(np.zeros(1, np.int32))
        run("order_of_warps", counter, Output(result), seed=7, layer=layer)
    assert np.array_equal(y, z)
    assert len(np.unique(y)) > 1


# A program that only runs where its addresses are not spread at random (personality(2),
# ADDR_NO_RANDOMIZE = 0x40000), and then answers with two counters and four bytes.
PICKY = """#!/bin/sh
cat > /dev/null
case $(cat /proc/self/personality) in
*40000) printf '%020d' 7 | tr 0 '\\000' ;;
*) echo 'FATAL: ThreadSanitizer: unexpected memory mapping' >&2; exit 66 ;;
esac
"""


@pytest.mark.skipif(shutil.which("setarch") is None, reason="needs setarch of util-linux")
def test_a_sanitizer_without_room_is_run_again_at_fixed_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "picky"
    script.write_text(PICKY)
    script.chmod(0o755)
    monkeypatch.setattr(emulator, "program", lambda *_: script)
    y = np.zeros(4, np.uint8)
    run("what_output_held", Output(y))
    assert y.tolist() == [0, 0, 0, ord("7")]
