"""Hand-made TensorRT-RTX plans: the header as observed, and graph text of the observed form."""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from pathlib import Path

ATTENTION = "_gemm_mha_v2_0xabc"
INT8_TRAITS = "Turing_imma_int8_int32"
SEPARATOR = "\x1f"


def header(body: bytes, mask: int = 1, version: bytes = b"\x01\x07\x01\x74") -> bytes:
    start = b"vtrt" + bytes(12) + struct.pack("<Q", 64 + len(body)) + version + b"vtrt"
    return (start + struct.pack("<I", mask)).ljust(64, b"\0")


def write_plan(path: Path, *parts: str, mask: int = 1) -> Path:
    """A plan of the given graphs and other text, with weights-like bytes between them."""
    body = b"\x00\xff header {\n\xfe".join([b"", *(part.encode() for part in parts), b"\x07"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header(body, mask) + body)
    return path


def graph(tensors: Sequence[str], operators: Sequence[str], accelerators: str = "sm75 ") -> str:
    lines = "\n".join(tensors)
    steps = "\n".join(operators)
    return (
        f"header {{\n  version = 5\n  accelerators={{{accelerators}}}\n}}\n"
        f"descriptors {{\n{lines}\n}}\nmain {{\n label bb1:\n{steps}\n}}\n"
    )


def computed(name: str, dtype: str, dims: str = '"B" 64') -> str:
    return (
        f'  tensor={{ alignment=128 dims={{ {dims} }} mem_prop=0 name="{name}" offset=0 rank0=0'
        f' region="devmem" stride_order={{ 1 0 }} strides={{ 64 1 }} type={dtype} }}'
    )


def stored(name: str, dtype: str, dims: str, size: int, offset: int = 0) -> str:
    return (
        f"  tensor={{ alignment=128 const_payload_size={size} dims={{ {dims} }}"
        f' name="{name}" offset={offset} rank0=0 region=consts stride_order={{ 1 0 }}'
        f" strides={{ 64 1 }} type={dtype} }}"
    )


def _quoted(names: str) -> str:
    return "".join(f' "{name}"' for name in names.split())


def _layers(nodes: str) -> str:
    return SEPARATOR.join(f"[ONNX Layer: {node}]" for node in nodes.split())


def gemm(name: str, inputs: str, output: str, nodes: str) -> str:
    return (
        f'  fully_connected={{ name="{name}" output={{{_quoted(output)} }}'
        f' input={{{_quoted(inputs)} }} stream=0 layers="{_layers(nodes)}" }}'
    )


def function(name: str, inputs: str, outputs: str, nodes: str) -> str:
    fqn = ATTENTION if name.startswith("_gemm_mha") else f"{name}_0x1"
    return (
        f"  function={{ name={name} fqn={fqn} args={{{_quoted(inputs + ' ' + outputs)} }}"
        f" input_args={{{_quoted(inputs)} }} output_args={{{_quoted(outputs)} }}"
        f' stream=0 layers="{_layers(nodes)}" }}'
    )


def fusion(name: str, inputs: str, outputs: str, nodes: str) -> str:
    return function(name, inputs, outputs, nodes).replace("  function=", "  runtime_fusion=")


def attention_source(traits: str = INT8_TRAITS) -> str:
    """What the plan holds of the attention kernel's code, as far as it is read."""
    both = f"fmha::{traits}_traits, fmha::{traits}_traits"
    return (
        f"using T = fmha::Kernel_traits_v2< {both}, 64>;\n"
        f"__global__ void __launch_bounds__(128) {ATTENTION} (int8_t *a) {{ }}\n"
    )


BLOCK = "enc/layer.0"
QUERY, OUT, UP = f"{BLOCK}/query/MatMul", f"{BLOCK}/out/MatMul", f"{BLOCK}/up/MatMul"
SCORES, CONTEXT = f"{BLOCK}/self/MatMul", f"{BLOCK}/self/MatMul_1"
MATMULS = (QUERY, SCORES, CONTEXT, OUT, UP)


def half_plan(path: Path, mask: int = 1) -> Path:
    """The same block with nothing in INT8."""
    block_plan(path, traits="Turing_hmma_fp16", mask=mask)
    stored_int8 = re.compile(rb"const_payload_size=(\d+)(?=[^\n]*type=int8)")
    data = stored_int8.sub(
        lambda found: b"const_payload_size=%d" % (2 * int(found[1])), path.read_bytes()
    )
    path.write_bytes(data.replace(b"type=int8", b"type=half"))
    return path


def block_plan(
    path: Path, *, out_type: str = "int8", traits: str = INT8_TRAITS, mask: int = 1
) -> Path:
    """One block: an INT8 GEMM, a fused attention, a GEMM of `out_type`, a fused FP16 GEMM."""
    outer = graph(
        [
            computed("x8", "int8"),
            stored("w8", "int8", "64 192", 12288, 1),
            stored("alpha", "float", "1", 4, 2),
            computed("acc", "float", '"B" 192'),
            *(computed(name, "int8") for name in ("q", "k", "v", "c8")),
            computed("s", "int64", "1"),
            computed("c", out_type),
            stored("wo", out_type, "64 64", 4096 * (1 if out_type == "int8" else 2), 3),
            computed("o", "half"),
            stored("wu", "half", "64 80", 10240, 4),
            computed("u", "half", '"B" 80'),
            computed("y", "float", '"B" 80'),
        ],
        [
            '  copy={ name="copy_d2s" output={"s" } input={"x8" } stream=0 }',
            gemm(QUERY, "x8 w8 alpha alpha", "acc", f"{QUERY} {BLOCK}/dq"),
            function("__myl_MulMinMaxRounCast", "acc alpha", "q", f"{QUERY} {BLOCK}/q8"),
            function("_gemm_mha_v2", "q k v s", "c8", f"{SCORES} {CONTEXT} {BLOCK}/Softmax"),
            gemm(f"{OUT}_U42", "c wo alpha alpha", "o", f"{OUT} {BLOCK}/dq2"),
            fusion("__myl_FcAddErf", "o wu", "u", f"{UP} {BLOCK}/Erf"),
            function("__myl_Cast", "u", "y", "head/Cast"),
        ],
    )
    inner = graph(
        [
            computed("o", "half"),
            computed("wu", "half", "64 80"),
            stored("one", "float", "1", 4),
            computed("t", "half"),
        ],
        [gemm(UP, "o wu one one", "t", UP)],
        accelerators="*",
    )
    return write_plan(path, outer, inner, attention_source(traits), mask=mask)
