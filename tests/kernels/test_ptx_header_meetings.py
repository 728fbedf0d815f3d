"""Shuffles, votes, barriers and copies of ptx.cuh do what NumPy says they should."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.kernels.layers import LAYERS
from tests.kernels.micro_run import Micro
from tests.kernels.tools import needs_gxx, needs_nvrtc
from trt_int8.plugins.kernel import KERNEL_SMS, Input, Output

pytestmark = [needs_gxx, needs_nvrtc]


@pytest.fixture(params=[(layer, sm) for layer in LAYERS for sm in KERNEL_SMS], ids=str)
def micro(request: pytest.FixtureRequest) -> Micro:
    layer, sm = request.param
    return Micro(layer, sm, "meetings.cu")


SHUFFLES = {"shuffle_word": np.uint32, "shuffle_int": np.int32, "shuffle_float": np.float32}


@pytest.mark.parametrize("entry", SHUFFLES)
@pytest.mark.parametrize("lane_mask", [1, 2, 4, 8, 16, 31])
def test_shuffle_gives_the_value_of_the_lane_across(
    micro: Micro, entry: str, lane_mask: int
) -> None:
    random = np.random.default_rng(lane_mask)
    x: Any = random.integers(-(2**31), 2**31, 96).astype(SHUFFLES[entry])
    y = np.zeros_like(x)
    micro.run(micro.launch(entry, block=96), Input(x), lane_mask, Output(y))
    lanes = np.arange(96)
    assert np.array_equal(y, x[lanes // 32 * 32 + (lanes % 32 ^ lane_mask)])


def test_votes_see_their_own_warp_only(micro: Micro) -> None:
    x = np.zeros(128, np.int32)
    x[32:64] = 7
    x[64 + 31] = 1
    x[96:128] = 1
    x[100] = 0
    y = np.zeros((128, 2), np.int32)
    micro.run(micro.launch("votes", block=128), Input(x), Output(y))
    assert [tuple(row) for row in y[::32]] == [(0, 0), (1, 1), (1, 0), (1, 0)]
    assert (y.reshape(4, 32, 2) == y[::32, None, :]).all()


def test_a_warp_barrier_lets_neighbours_read(micro: Micro) -> None:
    x = np.arange(64, dtype=np.int32) * 3
    y = np.zeros_like(x)
    micro.run(micro.launch("swap_in_warp", block=64, shared_bytes=256), Input(x), Output(y))
    assert np.array_equal(y, x.reshape(-1, 2)[:, ::-1].ravel())


def test_a_block_barrier_lets_the_whole_block_read(micro: Micro) -> None:
    x = np.arange(3 * 96, dtype=np.int32) ** 2
    y = np.zeros_like(x)
    launch = micro.launch("reverse_block", grid=(3, 1, 1), block=96, shared_bytes=4 * 96)
    micro.run(launch, Input(x), Output(y))
    assert np.array_equal(y, x.reshape(3, 96)[:, ::-1].ravel())


def test_sixteen_bytes_move_at_once(micro: Micro) -> None:
    x = np.random.default_rng(1).integers(0, 256, (64, 16)).astype(np.uint8)
    y = np.zeros_like(x)
    micro.run(micro.launch("copy_16", block=64), Input(x), Output(y))
    assert np.array_equal(y, x)


def test_an_asynchronous_copy_zeroes_what_is_not_valid(micro: Micro) -> None:
    x = np.random.default_rng(2).integers(1, 256, (64, 16)).astype(np.uint8)
    valid = (np.arange(64) % 17).astype(np.int32)
    y = np.zeros_like(x)
    launch = micro.launch("copy_async", block=64, shared_bytes=1024)
    micro.run(launch, Input(x), Input(valid), Output(y))
    assert np.array_equal(y, np.where(np.arange(16) < valid[:, None], x, 0))


def test_copies_in_flight_land_group_by_group(micro: Micro) -> None:
    x = np.random.default_rng(3).integers(0, 256, (4, 32, 16)).astype(np.uint8)
    y = np.zeros_like(x)
    launch = micro.launch("copy_async_in_groups", block=32, shared_bytes=2 * 32 * 16)
    micro.run(launch, Input(x), Output(y))
    assert np.array_equal(y, x)


def test_blocks_know_their_index_and_the_grid(micro: Micro) -> None:
    y = np.zeros((2, 3, 5, 6), np.int32)
    micro.run(micro.launch("last_block_index", grid=(5, 3, 2)), Output(y))
    z_index, y_index, x_index = np.indices((2, 3, 5))
    assert np.array_equal(y[..., :3], np.stack([x_index, y_index, z_index], axis=-1))
    assert (y[..., 3:] == (5, 3, 2)).all()
