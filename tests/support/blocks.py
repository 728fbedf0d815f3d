"""Small float Transformer graphs, written down by hand: post-LN, pre-LN and packed forms."""

from __future__ import annotations

import numpy as np
import onnx

from tests.support.onnx_tiny import Tiny, noise
from trt_int8.graph.normalize import normalize

HIDDEN, HEADS = 64, 2


def linear(tiny: Tiny, x: str, name: str, shape: tuple[int, int], seed: int) -> str:
    """MatMul `name` and its bias; weights are multiples of 1/64, so that sums are exact."""
    weight = np.rint(noise(*shape, seed=seed, scale=0.1) * 64) / 64
    bias = np.rint(noise(shape[1], seed=seed + 1) * 64) / 64
    product = tiny.op("MatMul", x, tiny.const(f"{name}_w", weight.astype(np.float32)), name=name)
    return tiny.op("Add", product, tiny.const(f"{name}_b", bias.astype(np.float32)))


def norm(tiny: Tiny, x: str, out: str) -> str:
    """LayerNormalization with random gains."""
    gain = tiny.const(f"{out}_g", 1 + noise(HIDDEN, seed=3, scale=0.1))
    return tiny.op("LayerNormalization", x, gain, axis=-1, out=out)


def heads(tiny: Tiny, x: str, name: str, head_dim: int) -> str:
    """[B, S, N*D] to [B, N, S, D]."""
    shape = tiny.const(f"{name}_shape", np.array([0, 0, HEADS, head_dim]))
    return tiny.op("Transpose", tiny.op("Reshape", x, shape), perm=[0, 2, 1, 3])


def attention(
    tiny: Tiny, parts: tuple[str, str, str], name: str, head_dim: int, bias: str = ""
) -> str:
    """softmax(Q K^T / sqrt(D) + bias) V; nodes `<name>.scores`, `.softmax`, `.context`."""
    q, k, v = parts
    root = tiny.const(f"{name}_root", float(head_dim**-0.5))
    turned = tiny.op("Transpose", k, perm=[0, 1, 3, 2])
    scores = tiny.op("MatMul", tiny.op("Mul", q, root), turned, name=f"{name}.scores")
    if bias:
        scores = tiny.op("Add", scores, bias, name=f"{name}.bias")
    weights = tiny.op("Softmax", scores, axis=-1, name=f"{name}.softmax")
    context = tiny.op("MatMul", weights, v, name=f"{name}.context", out=f"{name}.mixed")
    flat = tiny.const(f"{name}_flat", np.array([0, 0, HEADS * head_dim]))
    return tiny.op("Reshape", tiny.op("Transpose", context, perm=[0, 2, 1, 3]), flat)


def _self_attention(tiny: Tiny, x: str, name: str, head_dim: int, bias: str) -> str:
    width = HEADS * head_dim
    parts = [
        heads(tiny, linear(tiny, x, f"{name}.{n}", (HIDDEN, width), 10 * i), f"{name}{n}", head_dim)
        for i, n in enumerate("qkv", 1)
    ]
    mixed = attention(tiny, (parts[0], parts[1], parts[2]), name, head_dim, bias)
    return linear(tiny, mixed, f"{name}.o", (width, HIDDEN), 40)


def _feed_forward(tiny: Tiny, x: str, name: str) -> str:
    wide = linear(tiny, x, f"{name}.up", (HIDDEN, 96), 50)
    # tanh GELU: its inner sum x + c * x^3 must not be taken for a residual.
    cube = tiny.op("Mul", tiny.op("Mul", wide, wide), wide)
    inner = tiny.op("Add", wide, tiny.op("Mul", cube, tiny.const(f"{name}_c", 0.044715)))
    active = tiny.op("Mul", wide, tiny.op("Tanh", inner))
    return linear(tiny, active, f"{name}.down", (96, HIDDEN), 60)


def encoder(
    kind: str = "post", layers: int = 2, head_dim: int = 32, *, bias: bool = False
) -> onnx.ModelProto:
    """`post`-LN, `pre`-LN or `parallel` (attention and feed-forward side by side) layers.

    Nodes of layer i are named `i.q`, `i.k`, `i.v`, `i.o`, `i.up`, `i.down`, `i.scores`, … and its
    residual sums `i.sum1`, `i.sum2`; with `bias` all layers add one position bias to their scores.
    """
    tiny = Tiny()
    x = norm(tiny, "x", "start")
    given = tiny.op("Mul", "bias", tiny.const("two", 2.0)) if bias else ""
    for i in range(layers):
        name = str(i)
        if kind == "post":
            mixed = _self_attention(tiny, x, name, head_dim, given)
            x = norm(tiny, tiny.op("Add", mixed, x, name=f"{i}.sum1"), f"{i}.norm1")
            fed = _feed_forward(tiny, x, name)
            x = norm(tiny, tiny.op("Add", fed, x, name=f"{i}.sum2"), f"{i}.norm2")
            continue
        inner = norm(tiny, x, f"{i}.norm1")
        mixed = _self_attention(tiny, inner, name, head_dim, given)
        stream = tiny.op("Add", x, mixed, name=f"{i}.sum1", out=f"{i}.stream1")
        inner = norm(tiny, stream if kind == "pre" else x, f"{i}.norm2")
        fed = _feed_forward(tiny, inner, name)
        x = tiny.op("Add", stream, fed, name=f"{i}.sum2", out=f"{i}.stream2")
    linear(tiny, tiny.op("Relu", x), "head", (HIDDEN, 48), 70)
    tiny.nodes[-1].output[0] = "y"
    inputs: dict[str, list[int | str]] = {"x": ["batch", "sequence", HIDDEN]}
    if bias:
        inputs["bias"] = [1, 1, "sequence", "sequence"]
    return normalize(tiny.build(inputs, {"y": ["batch", "sequence", 48]}))


PACKED_FORMS = ("split", "slices", "gemm", "reshape+gather", "reshape+split", "interleaved")


def packed(form: str, sizes: tuple[int, int, int] = (64, 64, 64)) -> onnx.ModelProto:
    """One attention whose Linear `qkv` makes Q, K and V at once; `x` [B, S, 64] to `y`.

    Args:
        form: one of `PACKED_FORMS`.
        sizes: columns of Q, K and V (`split` and `slices` only; K and V are repeated to Q's).
    """
    tiny = Tiny()
    width = sum(sizes)
    if form == "gemm":
        flat = tiny.op("Reshape", "x", tiny.const("rows", np.array([-1, HIDDEN])))
        weight = np.rint(noise(width, HIDDEN, scale=0.1) * 64).astype(np.float32) / 64
        bias = tiny.const("b", np.rint(noise(width) * 64).astype(np.float32) / 64)
        made = tiny.op("Gemm", flat, tiny.const("w", weight), bias, transB=1, name="qkv")
        front = tiny.op("Slice", tiny.op("Shape", "x"), *_numbers(tiny, "front", [0], [2]))
        shape = tiny.op("Concat", front, tiny.const("width", np.array([width])), axis=0)
        made = tiny.op("Reshape", made, shape)
    else:
        made = linear(tiny, "x", "qkv", (HIDDEN, width), 5)
    q, k, v = (_repeat(tiny, part, form, width, sizes[0]) for part in _cut(tiny, made, form, sizes))
    mixed = attention(tiny, (q, k, v), "a", 32)
    linear(tiny, mixed, "o", (HIDDEN, HIDDEN), 40)
    tiny.nodes[-1].output[0] = "y"
    axes: list[int | str] = ["batch", "sequence", HIDDEN]
    return normalize(tiny.build({"x": axes}, {"y": axes}))


def _cut(tiny: Tiny, made: str, form: str, sizes: tuple[int, int, int]) -> list[str]:
    if form in ("split", "gemm"):
        tiny.const("sizes", np.array(sizes))
        node = onnx.helper.make_node("Split", [made, "sizes"], ["q", "k", "v"], axis=-1, name="s")
        tiny.nodes.append(node)
        return [heads(tiny, n, n, size // HEADS) for n, size in zip("qkv", sizes, strict=True)]
    if form == "slices":
        ends = np.cumsum(sizes)
        cuts = [
            tiny.op("Slice", made, *_numbers(tiny, n, [int(end) - size], [int(end)], [2]))
            for n, end, size in zip("qkv", ends, sizes, strict=True)
        ]
        return [heads(tiny, c, c, size // HEADS) for c, size in zip(cuts, sizes, strict=True)]
    if form == "interleaved":  # GPT-NeoX: [B, S, N, 3 * D], each head has its own q, k and v
        shape = tiny.const("shape", np.array([0, 0, HEADS, 96]))
        turned = tiny.op("Transpose", tiny.op("Reshape", made, shape), perm=[0, 2, 1, 3])
        tiny.nodes.append(onnx.helper.make_node("Split", [turned], ["q", "k", "v"], axis=3))
        return ["q", "k", "v"]
    shape = tiny.const("shape", np.array([0, 0, 3, HEADS, 32]))
    turned = tiny.op("Transpose", tiny.op("Reshape", made, shape), perm=[2, 0, 3, 1, 4])
    if form == "reshape+gather":
        numbers = (tiny.const(f"number{i}", np.array(i)) for i in range(3))
        return [tiny.op("Gather", turned, number, axis=0) for number in numbers]
    tiny.nodes.append(onnx.helper.make_node("Split", [turned], ["q1", "k1", "v1"], axis=0))
    axis = tiny.const("axis", np.array([0]))
    return [tiny.op("Squeeze", part, axis) for part in ("q1", "k1", "v1")]


def _repeat(tiny: Tiny, part: str, form: str, width: int, size: int) -> str:
    """Bring narrower K and V to the head size of Q, by padding with zeros."""
    if form not in ("split", "slices") or width == 3 * size:
        return part
    wide = tiny.op("Concat", part, part, axis=-1)
    ends = _numbers(tiny, f"{part}_end", [0], [size // HEADS], [3])
    return tiny.op("Slice", wide, *ends)


def _numbers(tiny: Tiny, name: str, *values: list[int]) -> list[str]:
    return [tiny.const(f"{name}_{i}", np.array(value)) for i, value in enumerate(values)]
