"""What the interpreter refuses before the first instruction, and what it counts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tests.kernels.interpreter import Interpreter
from tests.kernels.report import FaultKind, KernelFault, RunReport, Traffic
from tests.kernels.snippets import launch, module, pointer_loads, run
from tests.kernels.tools import needs_gxx
from trt_int8.plugins.kernel import Argument, Input, KernelLaunch, Output

pytestmark = needs_gxx


def refused(
    text: str,
    arguments: Sequence[Argument] = (),
    shape: KernelLaunch | None = None,
    kind: FaultKind = "load",
) -> str:
    """The message with which a module is refused."""
    with pytest.raises(KernelFault) as raised:
        Interpreter().run_text(text, shape or launch(), arguments)
    assert raised.value.kind == kind
    return str(raised.value)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("frobnicate.u32 %r1, %r2;", "unknown instruction in `frobnicate.u32"),
        ("add.cc.u32 %r1, %r2, %r2;", "unknown instruction"),
        ("atom.global.add.u32 %r1, [%l1], 1;", "unknown instruction"),
        ("add.rz.f32 %r1, %r1, %r1;", "unknown instruction"),
        ("ld.global.v8.u32 %r1, [%l1];", "unknown instruction"),
        ("add.u32 %r1, %r2;", "too few operands"),
        ("add.u32 %r1, %r2, %r3, %r4;", "too many operands"),
        ("add.u32 %r1, %r2, %l1;", "'%l1' has another size"),
        ("add.u32 %r1, %r2, %nobody;", "no register or variable '%nobody'"),
        ("add.u32 %r1, %r2, %r9;", "no register or variable '%r9'"),
        ("@%r1 bra X; X:", "'%r1' has another size"),
        ("bra NOWHERE;", "no label 'NOWHERE'"),
        ("bar.sync 1;", "only barrier 0"),
        ("ld.global.u32 %r1, %l1;", "an address in [ ]"),
        ("lop3.b32 %r1, %r2, %r2, %r2, %r3;", "a number is wanted"),
        ("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%r1}, {%r1}, {%r1}, {%r1};", "vector"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_line(body: str, words: str) -> None:
    declarations = ".reg .pred %p;\n.reg .b32 %r<9>;\n.reg .b64 %l<4>;\n"
    message = refused(module(declarations + body, []))
    assert words in message
    assert "PTX line 10" in message


def test_an_instruction_that_never_runs_is_refused_too() -> None:
    assert "unknown" in refused(module("ret; frobnicate.u32 1;", []))


def test_registers_of_a_closed_scope_are_gone() -> None:
    inside = "{ .reg .b32 %x; mov.u32 %x, 1; } "
    Interpreter().run_text(module(inside + inside, []), launch(), [])
    assert "no register or variable '%x'" in refused(module(inside + "mov.pred %x, %x;", []))


def test_a_missing_entry_is_named() -> None:
    text = module("ret;", []).replace("entry test", "entry other")
    assert "no entry 'test'" in refused(text)


def test_the_right_entry_of_several_is_run() -> None:
    other = ".visible .entry other(.param .u64 p0) { trap; }\n.func helper() { nonsense; }\n"
    Interpreter().run_text(module("ret;", [], head=other), launch(), [])


@pytest.mark.parametrize(
    ("parameters", "arguments", "words"),
    [
        (["u64"], [], "0 arguments for 1 parameters"),
        (["u64"], [3], "argument 0 is an integer, but parameter p0 has 8 bytes"),
        (["u32"], [Input(np.zeros(1))], "argument 0 is a tensor, but parameter p0 has 4 bytes"),
        (["u32"], [2**32], "does not fit in 32 bits"),
        (["u64"], [Input(np.zeros((4, 4))[:, 1])], "not C-contiguous"),
    ],
)
def test_arguments_must_fit_the_parameters(
    parameters: list[str], arguments: list[Argument], words: str
) -> None:
    assert words in refused(module("ret;", parameters), arguments, kind="launch")


@pytest.mark.parametrize(
    ("directives", "shape", "words"),
    [
        (".maxntid 64, 1, 1", launch(65), "65 threads, wanted at most .maxntid 64"),
        (".maxntid 64", launch(65), "wanted at most .maxntid 64"),
        (".reqntid 64", launch(32), "wanted .reqntid 64"),
        ("", launch(1025), "wanted 1 to 1024"),
        ("", launch(32, grid=(0, 1, 1)), "grid axis of 0"),
        ("", launch(32, grid=(1, 65536, 1)), "65535 blocks"),
        ("", launch(32, shared_bytes=49153), "49153 bytes of shared memory"),
    ],
)
def test_a_launch_must_fit_the_kernel(directives: str, shape: KernelLaunch, words: str) -> None:
    assert words in refused(module("ret;", [], directives), (), shape, "launch")


def test_the_bounds_of_a_kernel_are_allowed() -> None:
    Interpreter().run_text(module("ret;", [], ".maxntid 64, 1, 1"), launch(64), [])
    Interpreter().run_text(module("ret;", []), launch(1024, shared_bytes=49152), [])


COUNTED = """
.reg .pred %p; .reg .b32 %t, %k, %s, %r; .reg .b64 %at;
.shared .align 16 .b8 tile[4096];
.loc 1 10 1
mov.u32 %t, %tid.x; mov.u32 %k, 0;
.loc 1 20 3
LOOP: add.u32 %k, %k, 1;
.loc 2 5 1, function_name $name, inlined_at 1 20 3
mul.lo.u32 %s, %t, STRIDE;
.loc 3 7 1, function_name $name, inlined_at 2 5 1
st.shared.u32 [%s], %k;
.loc 1 21 1
setp.lt.u32 %p, %k, 5; @%p bra LOOP;
.loc 1 30 1
mad.wide.u32 %at, %t, 1, %ptr0; st.global.u8 [%at], %k; ret;
}
.file 1 "/somewhere/kernel.cu"
.file 2 "ptx_memory.cuh"
.file 3 "other.cuh"
.section .debug_str { .b8 1, 2 }
.visible .entry unused() {
ret;
"""


def counted(stride: int) -> RunReport:
    """Run COUNTED: five trips around its loop; lane i stores to the shared word i * stride."""
    out = np.zeros(32, np.uint8)
    return run(pointer_loads(1) + COUNTED.replace("STRIDE", str(stride)), [Output(out)])


def test_instructions_are_counted_by_opcode_class_and_line() -> None:
    report = counted(4)
    assert report.instructions["add.u32"] == 5
    assert report.instructions["st.shared.u32"] == 5
    assert report.instructions_by_class["control"] == 5 + 1
    assert report.instructions_by_class["memory"] == 5 + 1
    # Lines of ptx*.cuh count for their caller; other headers keep their own.
    assert report.instructions_by_line == {
        "kernel.cu:10": 2,
        "kernel.cu:20": 10,
        "other.cuh:7": 5,
        "kernel.cu:21": 10,
        "kernel.cu:30": 3,
    }
    assert report.total_instructions == 30 + 1
    assert report.shared_by_line == {"other.cuh:7": report.shared["st.shared"]}


@pytest.mark.parametrize(("stride", "wavefronts"), [(4, 1), (8, 2), (12, 1), (20, 1), (128, 32)])
def test_bank_conflicts_are_counted(stride: int, wavefronts: int) -> None:
    assert counted(stride).shared["st.shared"] == Traffic(5, 5 * wavefronts)


@pytest.mark.parametrize(("bytes_", "parts"), [(4, 1), (8, 2), (16, 4)])
def test_wide_accesses_are_split_into_parts_without_conflict(bytes_: int, parts: int) -> None:
    values = ["%t"] * (bytes_ // 4)
    vector, group = ("", "%t") if bytes_ == 4 else (f".v{len(values)}", f"{{{', '.join(values)}}}")
    body = f""".shared .align 16 .b8 tile[512]; .reg .b32 %t, %s; mov.u32 %t, %tid.x;
    mul.lo.u32 %s, %t, {bytes_}; st.shared{vector}.u32 [%s], {group};"""
    assert run(body, []).shared["st.shared"] == Traffic(parts, parts)


def test_faults_name_the_whole_chain_of_lines() -> None:
    with pytest.raises(KernelFault) as raised:
        counted(1024)
    assert raised.value.kind == "out_of_bounds"
    chain = "(other.cuh:7 inlined at ptx_memory.cuh:5 inlined at kernel.cu:20)"
    assert chain in str(raised.value)


@pytest.mark.parametrize(("element", "sectors"), [("u8", 1), ("u16", 2), ("u32", 4), ("u64", 8)])
def test_sectors_of_a_coalesced_store(element: str, sectors: int) -> None:
    size = int(element[1:]) // 8
    out = np.zeros(32 * size, np.uint8)
    body = f""".reg .b32 %t; .reg .b64 %at; mov.u32 %t, %tid.x;
    mad.wide.u32 %at, %t, {size}, %ptr0; st.global.{element} [%at], 0;"""
    report = run(pointer_loads(1) + body, [Output(out)])
    assert report.global_["st.global"] == Traffic(1, sectors)


def test_sectors_of_a_scattered_load() -> None:
    data = np.zeros(32 * 64, np.uint8)
    body = """.reg .b32 %t; .reg .b64 %at; mov.u32 %t, %tid.x;
    mad.wide.u32 %at, %t, 64, %ptr0; ld.global.u32 %t, [%at];"""
    report = run(pointer_loads(1) + body, [Input(data)])
    assert report.global_sectors_per_request == {"ld.global": 32.0}
