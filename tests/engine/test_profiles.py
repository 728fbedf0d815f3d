"""Several optimization profiles in one real engine: what fuses in which."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.support.attention_block import build, evidence_of, request_for
from tests.support.onnx_tiny import Tiny, noise
from trt_int8.engine.coverage import cover
from trt_int8.graph.half import to_half
from trt_int8.graph.normalize import normalize
from trt_int8.model.onnx_matmuls import find_matmuls
from trt_int8.spec.attention_limits import longest_int8_attention
from trt_int8.spec.coverage import EngineCoverage
from trt_int8.spec.shapes import InputShape

HIDDEN, HEADS, HEAD_DIM = 128, 2, 64


def attention_of_head_size_64() -> onnx.ModelProto:
    """One attention with Q/DQ on all six matmuls, as an FP16 twin."""
    tiny = Tiny()

    def linear(name: str, x: str) -> str:
        scale = np.full(HIDDEN, 0.01, np.float32)
        codes = np.clip(np.rint(noise(HIDDEN, HIDDEN) * 30), -127, 127).astype(np.int8)
        names = [
            tiny.const(f"{name}_w", codes),
            tiny.const(f"{name}_s", scale),
            tiny.const(f"{name}_z", np.zeros(HIDDEN, np.int8)),
        ]
        return tiny.op("MatMul", x, tiny.op("DequantizeLinear", *names, axis=1), name=name)

    def head(name: str, x: str) -> str:
        shape = tiny.const(f"{name}_shape", np.array([0, 0, HEADS, HEAD_DIM]))
        split = tiny.op("Reshape", linear(name, x), shape)
        return tiny.pair(tiny.op("Transpose", split, perm=[0, 2, 1, 3]), 0.03)

    x = tiny.pair("x", 0.03)
    q, k, v = (head(name, x) for name in "qkv")
    scores = tiny.op("MatMul", q, tiny.op("Transpose", k, perm=[0, 1, 3, 2]), name="scores")
    weights = tiny.pair(tiny.op("Softmax", scores, axis=-1), 1 / 127)
    context = tiny.op("MatMul", weights, v, name="context")
    flat = tiny.const("flat", np.array([0, 0, HIDDEN]))
    merged = tiny.op("Reshape", tiny.op("Transpose", context, perm=[0, 2, 1, 3]), flat)
    out = linear("out", tiny.pair(merged, 0.03))
    tiny.op("Identity", out, out="y")
    axes: list[int | str] = ["batch", "sequence", HIDDEN]
    return to_half(normalize(tiny.build({"x": axes}, {"y": axes})))


def shape(low: int, opt: int, high: int) -> tuple[InputShape, ...]:
    sizes = [(batch, size, HIDDEN) for batch, size in ((1, low), (2, opt), (3, high))]
    return (InputShape(name="x", min=sizes[0], opt=sizes[1], max=sizes[2]),)


@pytest.fixture(scope="module")
def coverage(tmp_path_factory: pytest.TempPathFactory) -> dict[int, EngineCoverage]:
    """Per SM the engine with profiles of up to 384 and of up to 512 tokens."""
    path = tmp_path_factory.mktemp("profiles") / "block.onnx"
    onnx.save(attention_of_head_size_64(), str(path))
    profiles = {"profiles": (shape(16, 128, 384), shape(385, 448, 512))}
    requests = {str(sm): request_for(path, sm).model_copy(update=profiles) for sm in (75, 80)}
    build(requests)
    sites = find_matmuls(onnx.load(str(path)))
    return {
        int(sm): cover(sites, evidence_of(request), "int8", int(sm), ("short", "long"))
        for sm, request in requests.items()
    }


@pytest.mark.parametrize("sm", [75, 80])
def test_each_profile_fuses_as_its_own_longest_text_allows(
    sm: int, coverage: dict[int, EngineCoverage]
) -> None:
    limit = longest_int8_attention(HEAD_DIM, sm)
    fused = [(part.profile, part.attentions_int8) for part in coverage[sm].profiles]
    assert fused == [("short", limit >= 384), ("long", limit >= 512)]


@pytest.mark.parametrize("sm", [75, 80])
def test_every_matmul_runs_int8_in_both_profiles(
    sm: int, coverage: dict[int, EngineCoverage]
) -> None:
    assert [part.int8 for part in coverage[sm].profiles] == [6, 6]
    assert coverage[sm].fraction == 1.0


def test_what_is_split_in_the_long_profile_is_not_fused_in_the_engine(
    coverage: dict[int, EngineCoverage],
) -> None:
    assert {sm: each.attentions_fused for sm, each in coverage.items()} == {75: 0, 80: 1}
