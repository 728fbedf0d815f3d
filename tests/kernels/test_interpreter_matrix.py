"""mma, ldmatrix and movmatrix of the interpreter against NumPy matrices.

Fragments are dealt out by the row and column formulas of the PTX ISA (8.7, 9.7.14.5, "Matrix
Fragments for mma.m8n8k16 / m16n8k16 / m16n8k32"), one element at a time.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.report import KernelFault, RunReport
from tests.kernels.snippets import Array, launch, pointer_loads, run
from tests.kernels.tools import needs_gxx
from trt_int8.plugins.kernel import Argument, Input, Output

pytestmark = needs_gxx

BYTE = {"u8": np.uint8, "s8": np.int8}
SHAPES = [(8, 8, 16), (16, 8, 16), (16, 8, 32)]
LANES = range(32)


def a_fragment(a: Array) -> Array:
    """[registers, 32] words of A [m, k]: element i of a lane has row g (+8), column 4t+(i&3)+..."""
    m, k = a.shape
    count = m * k // 32
    elements = np.zeros((32, count), a.dtype)
    for lane, i in itertools.product(LANES, range(count)):
        group, thread = lane >> 2, lane % 4
        if m == 8:
            row, column = group, thread * 4 + i
        else:
            row = group if i < 4 or 8 <= i < 12 else group + 8
            column = thread * 4 + (i & 3) + (16 if i >= 8 else 0)
        elements[lane, i] = a[row, column]
    return np.ascontiguousarray(elements.view(np.uint32).T)


def b_fragment(b: Array) -> Array:
    """[registers, 32] words of B [k, 8]."""
    count = b.shape[0] // 4
    elements = np.zeros((32, count), b.dtype)
    for lane, i in itertools.product(LANES, range(count)):
        row = (lane % 4) * 4 + (i & 3) + (16 if i >= 4 else 0)
        elements[lane, i] = b[row, lane >> 2]
    return np.ascontiguousarray(elements.view(np.uint32).T)


def c_places(m: int) -> list[tuple[int, int, int, int]]:
    """(register, lane, row, column) of every accumulator."""
    places = itertools.product(range(m // 4), LANES)
    return [(i, lane, (lane >> 2) + 8 * (i >= 2), (lane % 4) * 2 + (i & 1)) for i, lane in places]


def multiply(a: Array, b: Array, c: Array, kinds: str) -> Array:
    """D = A B + C by one mma instruction."""
    m, k = a.shape
    words = [a_fragment(a), b_fragment(b), np.zeros((m // 4, 32), np.int32)]
    for register, lane, row, column in c_places(m):
        words[2][register, lane] = c[row, column]
    out = np.zeros((m // 4, 32), np.int32)
    lines = [".reg .b32 %lane, %a<4>, %b<4>, %c<4>, %d<4>; .reg .b64 %off, %at<4>;"]
    lines.append("mov.u32 %lane, %tid.x; mul.wide.u32 %off, %lane, 4;")
    lines += [f"add.u64 %at{i}, %ptr{i}, %off;" for i in range(4)]
    for i, (name, x) in enumerate(zip("abc", words, strict=True)):
        lines += [f"ld.global.u32 %{name}{r}, [%at{i}+{128 * r}];" for r in range(len(x))]
    groups = [
        "{" + ", ".join(f"%{name}{r}" for r in range(len(x))) + "}"
        for name, x in zip("dabc", [out, *words], strict=True)
    ]
    lines.append(f"mma.sync.aligned.m{m}n8k{k}.row.col.s32.{kinds}.s32 {', '.join(groups)};")
    lines += [f"st.global.u32 [%at3+{128 * r}], %d{r};" for r in range(len(out))]
    arguments: list[Argument] = [*(Input(x) for x in words), Output(out)]
    run(pointer_loads(4) + "\n".join(lines), arguments)
    d = np.zeros((m, 8), np.int32)
    for register, lane, row, column in c_places(m):
        d[row, column] = out[register, lane]
    return d


def random_bytes(kind: str, shape: tuple[int, int], seed: int) -> Array:
    limits = np.iinfo(BYTE[kind])
    random = np.random.default_rng(seed)
    return random.integers(limits.min, limits.max, shape, dtype=BYTE[kind], endpoint=True)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("left", "right"), list(itertools.product(BYTE, BYTE)))
def test_mma_is_a_matrix_product(shape: tuple[int, int, int], left: str, right: str) -> None:
    m, n, k = shape
    a, b = random_bytes(left, (m, k), 1), random_bytes(right, (k, n), 2)
    c = np.random.default_rng(3).integers(-(2**31), 2**31, (m, n), dtype=np.int32)
    exact = a.astype(np.int64) @ b.astype(np.int64) + c
    assert np.array_equal(multiply(a, b, c, f"{left}.{right}"), exact.astype(np.int32))


def test_mma_wraps_beyond_int32() -> None:
    a, b = np.full((16, 32), 255, np.uint8), np.full((32, 8), 127, np.int8)
    c = np.full((16, 8), 2**31 - 1, np.int32)
    d = multiply(a, b, c, "u8.s8")
    assert (d == 2**31 - 1 + 32 * 255 * 127 - 2**32).all()


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_four_small_products_make_the_large_one(seed: int) -> None:
    a, b = random_bytes("u8", (16, 32), seed), random_bytes("s8", (32, 8), seed + 1)
    d = np.zeros((16, 8), np.int32)
    whole = multiply(a, b, d, "u8.s8")
    for rows, depth in itertools.product(
        (slice(0, 8), slice(8, 16)), (slice(0, 16), slice(16, 32))
    ):
        d[rows] = multiply(a[rows, depth], b[depth], d[rows], "u8.s8")
    assert np.array_equal(whole, d)


def load_matrices(count: int, stride: int, suffix: str = "") -> tuple[Array, Array, RunReport]:
    """Matrices [count, 8, 8] of 16-bit elements through shared memory: given, got, report."""
    given = np.random.default_rng(count).integers(0, 2**16, (4, 8, 8)).astype(np.uint16)
    out = np.zeros((count, 32), np.uint32)
    registers = ", ".join(f"%r{i}" for i in range(count))
    body = f"""
    .shared .align 16 .b8 tile[{32 * stride}];
    .reg .b32 %lane, %row, %r<4>, %x<4>; .reg .b64 %off, %at, %source;
    mov.u32 %lane, %tid.x;
    mov.u32 %row, tile;
    mad.lo.u32 %row, %lane, {stride}, %row;
    mad.wide.u32 %source, %lane, 16, %ptr0;
    ld.global.nc.v4.u32 {{%x0, %x1, %x2, %x3}}, [%source];
    st.shared.v4.u32 [%row], {{%x0, %x1, %x2, %x3}};
    bar.warp.sync -1;
    ldmatrix.sync.aligned.m8n8.x{count}{suffix}.shared.b16 {{{registers}}}, [%row];
    mad.wide.u32 %at, %lane, 4, %ptr1;
    """
    body += "\n".join(f"st.global.u32 [%at+{128 * i}], %r{i};" for i in range(count))
    report = run(pointer_loads(2) + body, [Input(given), Output(out)])
    got = out.view(np.uint16).reshape(count, 32, 2)
    return given[:count], got, report


@pytest.mark.parametrize("count", [1, 2, 4])
def test_ldmatrix_gives_each_lane_two_neighbours_of_a_row(count: int) -> None:
    given, got, _ = load_matrices(count, 16)
    assert np.array_equal(got.reshape(count, 8, 8), given)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_ldmatrix_trans_gives_each_lane_two_neighbours_of_a_column(count: int) -> None:
    given, got, _ = load_matrices(count, 16, ".trans")
    assert np.array_equal(got.reshape(count, 8, 8), given.swapaxes(1, 2))


@pytest.mark.parametrize(("stride", "wavefronts"), [(16, 1), (80, 1), (32, 2), (64, 4), (128, 8)])
def test_row_stride_decides_the_bank_conflicts_of_ldmatrix(stride: int, wavefronts: int) -> None:
    _, _, report = load_matrices(4, stride)
    assert report.shared["ldmatrix"].requests == 4
    assert report.shared_wavefronts_per_request["ldmatrix"] == wavefronts


def test_movmatrix_transposes() -> None:
    given = np.random.default_rng(9).integers(0, 2**16, (8, 8)).astype(np.uint16)
    out = np.zeros((8, 8), np.uint16)
    body = """.reg .b32 %lane, %x; .reg .b64 %off, %at;
    mov.u32 %lane, %tid.x;
    mul.wide.u32 %off, %lane, 4;
    add.u64 %at, %ptr0, %off;
    ld.global.u32 %x, [%at];
    movmatrix.sync.aligned.m8n8.trans.b16 %x, %x;
    add.u64 %at, %ptr1, %off;
    st.global.u32 [%at], %x;"""
    run(pointer_loads(2) + body, [Input(given), Output(out)])
    assert np.array_equal(out, given.T)


def test_a_matrix_instruction_needs_all_lanes_of_its_warp() -> None:
    body = """.reg .b32 %d<2>, %a, %b;
    mov.u32 %a, 0; mov.u32 %b, 0; mov.u32 %d0, 0; mov.u32 %d1, 0;
    mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%d0, %d1}, {%a}, {%b}, {%d0, %d1};"""
    with pytest.raises(KernelFault, match=r"without lane 20") as raised:
        run(body, [], launch(20))
    assert raised.value.kind == "divergence"
