"""Loads and stores of the interpreter: values, and the accesses it refuses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tests.kernels.report import FaultKind, KernelFault
from tests.kernels.snippets import launch, pointer_loads, run
from tests.kernels.tools import needs_gxx
from trt_int8.plugins.kernel import Argument, Input, Output

pytestmark = needs_gxx

REGISTERS = """
.reg .pred %p; .reg .b16 %h<4>; .reg .b32 %lane, %s, %r<8>; .reg .b64 %in, %out, %at, %l<4>;
mov.u32 %lane, %tid.x;
"""
# Lane i reads word i of argument 0 into %r0 and owns word i of argument 1.
WORD_EACH = """
mad.wide.u32 %in, %lane, 4, %ptr0;
mad.wide.u32 %out, %lane, 4, %ptr1;
ld.global.u32 %r0, [%in];
"""
WORDS = np.arange(1, 33, dtype=np.uint32) * 0x01234567


def words(body: str, head: str = "", shared_bytes: int = 0) -> np.ndarray:
    """Run WORD_EACH and `body` over 32 lanes; what they left in argument 1."""
    out = np.zeros(32, np.uint32)
    code = pointer_loads(2) + REGISTERS + WORD_EACH + body
    run(code, [Input(WORDS), Output(out)], launch(shared_bytes=shared_bytes), head=head)
    return out


def fault_of(body: str, kind: FaultKind, *, pieces: Sequence[str] = (), **options: int) -> None:
    """`body` must stop with a fault of this kind that names the pieces."""
    with pytest.raises(KernelFault) as raised:
        words(body, shared_bytes=options.get("shared_bytes", 256))
    assert raised.value.kind == kind, str(raised.value)
    for piece in pieces:
        assert piece in str(raised.value)


def copies(element: str, count: int, dtype: str) -> None:
    """One lane per vector copies an array by vectors of `count` elements."""
    data = np.random.default_rng(1).integers(0, 256, 32 * count * np.dtype(dtype).itemsize)
    given = data.astype(np.uint8).view(dtype)
    out = np.zeros_like(given)
    bits = max(16, 8 * given.itemsize)
    letter = {16: "%h", 32: "%r", 64: "%l"}[bits]
    names = ", ".join(f"{letter}{i}" for i in range(count))
    vector = f".v{count}" if count > 1 else ""
    group = f"{{{names}}}" if count > 1 else names
    size = count * given.itemsize
    body = f"""
    mad.wide.u32 %in, %lane, {size}, %ptr0; mad.wide.u32 %out, %lane, {size}, %ptr1;
    ld.global.nc{vector}.{element} {group}, [%in];
    st.global{vector}.{element} [%out], {group};"""
    run(pointer_loads(2) + REGISTERS + body, [Input(given), Output(out)])
    assert np.array_equal(given, out)


@pytest.mark.parametrize(
    ("element", "dtype"),
    [("u8", "u1"), ("s8", "i1"), ("b16", "u2"), ("f32", "u4"), ("b32", "u4"), ("u64", "u8")],
)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_vectors_of_every_type_travel(element: str, dtype: str, count: int) -> None:
    if count * np.dtype(dtype).itemsize <= 16:
        copies(element, count, dtype)


def test_a_signed_load_extends_to_the_whole_register() -> None:
    out = words("ld.global.s8 %r1, [%in]; st.global.u32 [%out], %r1;")
    assert np.array_equal(out.view(np.int32), WORDS.view(np.int8)[::4])


def test_shared_local_and_constant_memory_have_generic_addresses() -> None:
    head = (
        ".const .align 4 .u32 table[4] = {10, 20, 30, 40};\n.extern .shared .align 16 .b8 tile[];"
    )
    body = """
    .local .align 4 .b8 depot[8];
    mov.u64 %at, tile; cvta.shared.u64 %at, %at; mad.wide.u32 %at, %lane, 4, %at;
    st.u32 [%at], %r0; ld.u32 %r1, [%at];
    mov.u64 %l0, depot; cvta.local.u64 %l0, %l0;
    st.u32 [%l0+4], %r1; ld.local.u32 %r2, [depot+4];
    ld.const.u32 %r3, [table+8];
    add.u32 %r2, %r2, %r3; st.u32 [%out], %r2;"""
    assert np.array_equal(words(body, head, shared_bytes=128), WORDS + 30)


SHARED_HEAD = "mul.lo.u32 %s, %lane, 4;"


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ("ld.global.u32 %r1, [%in+124];", "at offset 128 of argument 0 (input, 128 bytes)"),
        ("ld.global.u32 %r1, [%in+-4];", "at offset -4 of argument 0"),
        ("st.global.u32 [%out+4], %r0;", "at offset 128 of argument 1 (output, 128 bytes)"),
        ("ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%ptr0+128];", "16 bytes at offset 128"),
    ],
)
def test_an_access_outside_a_tensor_names_tensor_and_offset(body: str, place: str) -> None:
    fault_of(body, "out_of_bounds", pieces=[place, "block (0, 0, 0)", "thread", "PTX line"])


def test_a_wild_address_belongs_to_nobody() -> None:
    fault_of("ld.global.u32 %r1, [64];", "out_of_bounds", pieces=["no argument owns"])


def test_shared_memory_ends_where_the_launch_says() -> None:
    body = SHARED_HEAD + "st.shared.u32 [%s], %r0; st.global.u32 [%out], %r0;"
    fault_of(body, "out_of_bounds", shared_bytes=124, pieces=["offset 124 of the 124", "thread 31"])
    assert np.array_equal(words(body, shared_bytes=128), WORDS)


@pytest.mark.parametrize(
    "body",
    [
        "ld.global.u16 %h0, [%ptr0+1];",
        "ld.global.v2.u32 {%r1, %r2}, [%ptr0+4];",
        "st.global.v4.u32 [%ptr1+8], {%r0, %r0, %r0, %r0};",
        "st.shared.u32 [2], %r0;",
    ],
)
def test_an_access_must_be_aligned_to_its_size(body: str) -> None:
    fault_of(body, "misaligned")


def test_inputs_are_read_only() -> None:
    fault_of("st.global.u32 [%in], %r0;", "read_only", pieces=["argument 0 (input"])


def test_outputs_are_not_read_through_the_read_only_path() -> None:
    write = "st.global.u32 [%out], %r0; "
    fault_of(write + "ld.global.nc.u32 %r1, [%out];", "read_only", pieces=["argument 1 (output"])


def test_an_output_is_read_back_by_its_writer_only() -> None:
    write = "st.global.u32 [%out], %r0; "
    assert np.array_equal(words(write + "ld.global.u32 %r1, [%out];"), WORDS)
    fault_of("ld.global.u32 %r1, [%out];", "uninitialised")
    fault_of(write + "ld.global.u32 %r1, [%ptr1];", "race", pieces=["another thread"])


def test_no_output_byte_is_written_twice() -> None:
    fault_of("st.global.u32 [%out], %r0; st.global.u8 [%out+1], %r0;", "output")
    one = "setp.eq.u32 %p, %lane, 3; @%p st.global.u32 [%ptr1], %r0; st.global.u32 [%out], %r0;"
    fault_of(one, "output", pieces=["a second time, after block 0, thread 3", "thread 0"])


def test_no_output_byte_is_left_out() -> None:
    body = "setp.ne.u32 %p, %lane, 7; @%p st.global.u32 [%out], %r0;"
    fault_of(body, "output", pieces=["4 bytes of argument 1", "first at offset 28"])


def test_two_blocks_must_not_write_the_same_bytes() -> None:
    out = np.zeros(32, np.uint32)
    code = pointer_loads(2) + REGISTERS + WORD_EACH + "st.global.u32 [%out], %r0;"
    with pytest.raises(KernelFault, match="after block 0, thread 0") as raised:
        run(code, [Input(WORDS), Output(out)], launch(grid=(2, 1, 1)))
    assert raised.value.kind == "output"
    assert "block (1, 0, 0)" in str(raised.value)


@pytest.mark.parametrize(
    "body",
    [
        "st.global.u32 [%out], %r5;",
        "add.u32 %r1, %r0, %r5;",
        "@%p add.u32 %r1, %r0, %r0;",
        "mov.u32 %r1, %r5; st.global.u32 [%out], %r1;",
        "selp.u32 %r1, %r0, %r0, %p;",
        "ld.shared.u32 %r1, [0];",
        ".local .align 4 .b8 depot[4]; ld.local.u32 %r1, [depot];",
    ],
)
def test_what_nobody_wrote_is_not_used(body: str) -> None:
    fault_of(body, "uninitialised")


def test_an_undefined_value_may_be_moved_and_left_out_of_a_choice() -> None:
    body = "mov.u32 %r1, %r5; setp.lt.u32 %p, %lane, 32; selp.u32 %r2, %r0, %r1, %p;"
    assert np.array_equal(words(body + "st.global.u32 [%out], %r2;"), WORDS)


def test_integers_come_as_arguments() -> None:
    out = np.zeros(32, np.uint32)
    code = pointer_loads(1) + REGISTERS + "mad.wide.u32 %out, %lane, 4, %ptr0;"
    code += "ld.param.u32 %r0, [p1]; st.global.u32 [%out], %r0;"
    arguments: list[Argument] = [Output(out), -5]
    run(code, arguments)
    assert (out.view(np.int32) == -5).all()
