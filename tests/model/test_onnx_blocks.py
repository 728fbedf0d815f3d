"""Blocks of a Transformer, found by structure."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto

from tests.support.blocks import encoder, packed
from tests.support.onnx_tiny import Tiny, noise
from trt_int8.graph.normalize import normalize
from trt_int8.model.onnx_blocks import Blocks, find_blocks, is_linear

KINDS = ("post", "pre", "parallel")


def blocks(model: onnx.ModelProto) -> tuple[ir.Graph, Blocks]:
    graph = ir.from_proto(model).graph
    return graph, find_blocks(graph)


def sums(model: onnx.ModelProto) -> list[tuple[str, str]]:
    found = blocks(model)[1].residuals
    return [(str(r.add.name), str(r.source.name) if r.source else "") for r in found]


def test_a_post_norm_skip_arm_carries_the_norm() -> None:
    assert sums(encoder("post")) == [
        ("0.sum1", "start"),
        ("0.sum2", "0.norm1"),
        ("1.sum1", "0.norm2"),
        ("1.sum2", "1.norm1"),
    ]


def test_a_pre_norm_skip_arm_carries_the_stream() -> None:
    assert sums(encoder("pre")) == [
        ("0.sum1", "start"),
        ("0.sum2", "0.stream1"),
        ("1.sum1", "0.stream2"),
        ("1.sum2", "1.stream1"),
    ]


def test_parallel_branches_have_a_sum_each() -> None:
    assert sums(encoder("parallel")) == [
        ("0.sum1", "start"),
        ("0.sum2", ""),
        ("1.sum1", "0.stream2"),
        ("1.sum2", ""),
    ]


def test_a_position_bias_of_all_layers_is_no_skip_arm() -> None:
    found = sums(encoder("pre", bias=True))
    assert found == sums(encoder("pre"))
    assert not [name for name, _ in found if "bias" in name]


@pytest.mark.parametrize("kind", KINDS)
def test_roles_of_linears_are_found_without_names(kind: str) -> None:
    graph, found = blocks(encoder(kind))
    roles = {str(n.name): found.role_of(n) for n in graph if is_linear(n)}
    wanted = {f"{i}.{part}": "projection" for i in (0, 1) for part in "qkvo"}
    wanted |= {f"{i}.{part}": "ffn" for i in (0, 1) for part in ("up", "down")}
    assert roles == wanted | {"head": "other"}


def test_a_packed_projection_belongs_to_its_attention() -> None:
    graph, found = blocks(packed("reshape+gather"))
    roles = {str(n.name): found.role_of(n) for n in graph if is_linear(n)}
    assert roles == {"qkv": "projection", "o": "projection"}


def test_the_shape_of_another_tensor_ties_no_linear_to_an_attention() -> None:
    # ALBERT: Q is reshaped by the shape of what an earlier Linear made.
    tiny = Tiny()
    first = tiny.op("MatMul", "x", tiny.const("w0", noise(32, 32)), name="mapping")
    q = tiny.op("MatMul", first, tiny.const("w1", noise(32, 32)), name="q")
    shaped = tiny.op("Reshape", q, tiny.op("Shape", first))
    scores = tiny.op("MatMul", shaped, tiny.op("Transpose", shaped, perm=[0, 2, 1]))
    tiny.op("MatMul", tiny.op("Softmax", scores, axis=-1), shaped, out="y")
    graph, found = blocks(normalize(tiny.build({"x": [2, 5, 32]}, {"y": [2, 5, 32]})))
    roles = {str(n.name): found.role_of(n) for n in graph if is_linear(n)}
    assert roles == {"mapping": "other", "q": "projection"}


def test_a_sum_without_a_linear_between_its_arms_is_no_residual() -> None:
    tiny = Tiny()
    tiny.op("Add", tiny.op("Relu", "x"), "x", out="y")
    assert sums(normalize(tiny.build({"x": [2, 5, 32]}, {"y": [2, 5, 32]}))) == []


def table_graph(rows: str, table: onnx.NodeProto | None = None) -> onnx.ModelProto:
    tiny = Tiny()
    ids = {"computed": tiny.op("Cast", "x", to=TensorProto.INT64), "constant": "fixed"}
    tiny.const("fixed", np.arange(7))
    tiny.op("Gather", tiny.const("table", noise(50, 32)), ids[rows], name="lookup", out="y")
    return normalize(tiny.build({"x": [7]}, {"y": [7, 32]}))


def test_an_embedding_is_a_lookup_of_computed_rows() -> None:
    assert [n.name for n in blocks(table_graph("computed"))[1].embeddings] == ["lookup"]


def test_rows_that_are_constant_are_no_embedding() -> None:
    assert blocks(table_graph("constant"))[1].embeddings == ()


def test_a_table_that_only_feeds_the_scores_is_no_embedding() -> None:
    tiny = Tiny()
    ids = tiny.op("Cast", "ids", to=TensorProto.INT64)
    bias = tiny.op("Gather", tiny.const("table", noise(9, 16)), ids, name="lookup")
    scores = tiny.op("MatMul", "x", tiny.op("Transpose", "x", perm=[0, 2, 1]))
    biased = tiny.op("Add", scores, bias)
    tiny.op("MatMul", tiny.op("Softmax", biased, axis=-1), "x", out="y")
    model = tiny.build({"x": [2, 16, 32], "ids": [16]}, {"y": [2, 16, 32]})
    assert blocks(normalize(model))[1].embeddings == ()
