"""ldmatrix and mma of ptx.cuh move and multiply what the tables of the PTX ISA say.

The layouts here are written from the text of the PTX ISA ("Matrix Fragments for mma.m16n8k32" and
"ldmatrix"), element by element, and share nothing with the code of the emulator or interpreter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.kernels.layers import LAYERS
from tests.kernels.micro_run import Micro
from tests.kernels.report import KernelFault
from tests.kernels.tools import needs_gxx, needs_nvrtc
from trt_int8.plugins.kernel import KERNEL_SMS, Input, Output

pytestmark = [needs_gxx, needs_nvrtc]

Matrix = NDArray[Any]
LANES = range(32)


@pytest.fixture(params=[(layer, sm) for layer in LAYERS for sm in KERNEL_SMS], ids=str)
def micro(request: pytest.FixtureRequest) -> Micro:
    layer, sm = request.param
    return Micro(layer, sm, "matrices.cu")


def place_in_a(lane: int, i: int) -> tuple[int, int]:
    """Row and column of A that element a_i, i in 0..15, of a lane holds.

    PTX ISA: groupID = %laneid >> 2, threadID_in_group = %laneid % 4;
    row = groupID for 0 <= i < 4 or 8 <= i < 12, groupID + 8 otherwise;
    col = threadID_in_group * 4 + (i & 3) for i < 8, the same + 16 for i >= 8.
    """
    row = lane >> 2 if 0 <= i < 4 or 8 <= i < 12 else (lane >> 2) + 8
    column = (lane % 4) * 4 + (i & 3) + (16 if i >= 8 else 0)
    return row, column


def place_in_b(lane: int, i: int) -> tuple[int, int]:
    """Row and column of B that element b_i, i in 0..7, of a lane holds.

    PTX ISA: row = threadID_in_group * 4 + (i & 3) for i < 4, the same + 16 for i >= 4;
    col = groupID.
    """
    return (lane % 4) * 4 + (i & 3) + (16 if i >= 4 else 0), lane >> 2


def place_in_c(lane: int, i: int) -> tuple[int, int]:
    """Row and column of C that element c_i, i in 0..3, of a lane holds.

    PTX ISA: row = groupID for i < 2, groupID + 8 for i >= 2; col = threadID_in_group * 2 + (i & 1).
    """
    return (lane >> 2) + (8 if i >= 2 else 0), (lane % 4) * 2 + (i & 1)


Place = Callable[[int, int], tuple[int, int]]


def fragments(matrix: Matrix, place: Place) -> Matrix:
    """Elements of each lane in order, [32, elements]."""
    count = matrix.size // 32
    return np.array([[matrix[place(lane, i)] for i in range(count)] for lane in LANES])


def multiply(micro: Micro, entry: str, a: Matrix, b: Matrix, c: Matrix) -> NDArray[np.int32]:
    """C + A B by the kernel, from whole matrices to a whole matrix [16, 8]."""
    d = np.zeros((32, 4), np.int32)
    left = fragments(a, place_in_a).view(np.uint32)
    right = fragments(b, place_in_b).view(np.uint32)
    start: Input | int = Input(fragments(c, place_in_c))
    if entry == "mma_s8s8_from":
        start = int(c[0, 0])
    micro.run(micro.launch(entry), Input(left), Input(right), start, Output(d))
    whole = np.zeros((16, 8), np.int32)
    for lane in LANES:
        for i in range(4):
            whole[place_in_c(lane, i)] = d[lane, i]
    return whole


def product(a: Matrix, b: Matrix, c: Matrix) -> NDArray[np.int32]:
    """C + A B modulo 2^32, as an int32."""
    exact = c.astype(np.int64) + a.astype(np.int64) @ b.astype(np.int64)
    return exact.astype(np.uint64).astype(np.uint32).view(np.int32)


def left_dtype(entry: str) -> Any:
    return np.uint8 if entry == "mma_u8s8" else np.int8


ENTRIES = ("mma_s8s8", "mma_u8s8", "mma_s8s8_from")


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("seed", range(3))
def test_mma_equals_an_integer_matmul(micro: Micro, entry: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    a = random.integers(0, 256, (16, 32)).astype(np.uint8).view(left_dtype(entry))
    b = random.integers(-128, 128, (32, 8)).astype(np.int8)
    c = random.integers(-(2**20), 2**20, (16, 8)).astype(np.int32)
    if entry == "mma_s8s8_from":
        c[:] = c[0, 0]
    assert np.array_equal(multiply(micro, entry, a, b, c), product(a, b, c))


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("left", [0x80, 0xFF, 0x7F])
@pytest.mark.parametrize("right", [-128, 127])
def test_mma_takes_extreme_bytes_and_wraps(micro: Micro, entry: str, left: int, right: int) -> None:
    a = np.full((16, 32), left, np.uint8).view(left_dtype(entry))
    b = np.full((32, 8), right, np.int8)
    c = np.full((16, 8), 2**31 - 5, np.int32)
    assert np.array_equal(multiply(micro, entry, a, b, c), product(a, b, c))


@pytest.mark.parametrize("entry", ["mma_s8s8", "mma_u8s8"])
def test_mma_puts_each_single_element_in_its_place(micro: Micro, entry: str) -> None:
    c = np.zeros((16, 8), np.int32)
    for k in range(0, 32, 5):
        a, b = np.zeros((16, 32), left_dtype(entry)), np.zeros((32, 8), np.int8)
        a[:, k] = np.arange(16) + 1
        b[k] = np.arange(8) - 4
        assert np.array_equal(multiply(micro, entry, a, b, c), np.outer(a[:, k], b[k]))


def loaded(matrices: Matrix, lane: int, *, transposed: bool) -> Matrix:
    """What a lane receives of each 8x8 matrix of 16-bit elements [M, 8, 8]: [M] words.

    PTX ISA: without .trans a thread receives elements 2 * (lane % 4) and the next of row lane / 4;
    with .trans the matrix is loaded in column-major order.
    """
    stored = matrices.transpose(0, 2, 1) if transposed else matrices
    low = stored[:, lane // 4, 2 * (lane % 4)].astype(np.uint32)
    high = stored[:, lane // 4, 2 * (lane % 4) + 1].astype(np.uint32)
    return low | (high << 16)


LOADS = {"ldmatrix_x4": (4, False), "ldmatrix_x2": (2, False), "ldmatrix_x4_trans": (4, True)}


@pytest.mark.parametrize("entry", LOADS)
@pytest.mark.parametrize("row_bytes", [16, 48])
def test_ldmatrix_distributes_rows_as_the_isa_says(
    micro: Micro, entry: str, row_bytes: int
) -> None:
    count, transposed = LOADS[entry]
    x = np.random.default_rng(3).integers(0, 256, (32, 16)).astype(np.uint8)
    r = np.zeros((32, count), np.uint32)
    launch = micro.launch(entry, shared_bytes=31 * row_bytes + 16)
    micro.run(launch, Input(x), row_bytes, Output(r))
    matrices = x.view(np.uint16).reshape(4, 8, 8)[:count]
    wanted = np.stack([loaded(matrices, lane, transposed=transposed) for lane in LANES])
    assert np.array_equal(r, wanted)


# Eight rows of 16 bytes cover all 32 banks of 4 bytes once when they are 16 bytes apart (modulo
# 128): one wavefront. 32 apart: two rows on each bank. 128 apart: all eight on the same banks.
@pytest.mark.parametrize(
    ("row_bytes", "wavefronts"), [(16, 1), (48, 1), (32, 2), (64, 4), (128, 8)]
)
def test_bank_conflicts_of_ldmatrix_are_counted(
    micro: Micro, row_bytes: int, wavefronts: int
) -> None:
    x, r = np.zeros((32, 16), np.uint8), np.zeros((32, 4), np.uint32)
    launch = micro.launch("ldmatrix_x4", shared_bytes=32 * row_bytes)
    report = micro.run(launch, Input(x), row_bytes, Output(r))
    assert report.shared["ldmatrix"].requests == 4
    assert report.shared_wavefronts_per_request["ldmatrix"] == wavefronts


def test_a_row_that_is_no_multiple_of_16_is_a_fault(micro: Micro) -> None:
    x, r = np.zeros((32, 16), np.uint8), np.zeros((32, 4), np.uint32)
    with pytest.raises(KernelFault) as fault:
        micro.run(micro.launch("ldmatrix_x4", shared_bytes=1024), Input(x), 24, Output(r))
    assert fault.value.kind in ("misaligned", "undefined")
