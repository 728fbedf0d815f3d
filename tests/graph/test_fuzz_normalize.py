"""200 random Q/DQ graphs: the normal form computes the same bits, and is a normal form."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.support.graph_generator import ROWS, WIDTH, GraphGenerator
from tests.support.onnx_tiny import constants_of, noise, run_ort
from trt_int8.graph.normalize import normalize

GRAPHS, PER_TEST = 200, 20
PICKERS = {"Gather", "Conv"}


def graphs(first: int) -> list[onnx.ModelProto]:
    return [GraphGenerator(seed).model() for seed in range(first, first + PER_TEST)]


@pytest.mark.parametrize("first", range(0, GRAPHS, PER_TEST))
def test_random_graphs_compute_the_same_bits_in_normal_form(first: int) -> None:
    for number, model in enumerate(graphs(first), first):
        feeds = {"x": noise(ROWS, WIDTH, seed=number)}
        normal = normalize(model)
        onnx.checker.check_model(normal, full_check=True)
        expected, found = run_ort(model, feeds)[0], run_ort(normal, feeds)[0]
        np.testing.assert_array_equal(found, expected, err_msg=f"seed {number}")


@pytest.mark.parametrize("first", range(0, GRAPHS, PER_TEST))
def test_what_is_left_of_random_graphs_is_symmetric_int8_in_its_place(first: int) -> None:
    for number, model in enumerate(graphs(first), first):
        normal = normalize(model)
        constants = constants_of(normal)
        makers = {name: node for node in normal.graph.node for name in node.output}
        for node in normal.graph.node:
            if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
                continue
            zero = constants[node.input[2]]
            assert (zero.dtype, zero.any()) == (np.dtype("i1"), np.False_), number
            if node.op_type == "QuantizeLinear":
                assert node.input[0] not in constants, number
            elif node.input[0] in constants:
                readers = {n.op_type for n in normal.graph.node if node.output[0] in n.input}
                assert readers <= {"MatMul", "Gemm"} | PICKERS, number
                assert constants[node.input[0]].dtype == np.int8
            else:
                assert makers[node.input[0]].op_type == "QuantizeLinear", number


@pytest.mark.parametrize("first", range(0, GRAPHS, 5 * PER_TEST))
def test_normalizing_random_graphs_twice_changes_nothing(first: int) -> None:
    for number, model in enumerate(graphs(first), first):
        once = normalize(model)
        assert normalize(once).SerializeToString() == once.SerializeToString(), number


def test_the_generator_reaches_every_form() -> None:
    models = [model for first in range(0, GRAPHS, PER_TEST) for model in graphs(first)]
    kinds = {node.op_type for model in models for node in model.graph.node}
    assert {"MatMul", "Gemm", "Softmax", "Concat", "Split", "Gather", "Transpose"} <= kinds
    types = {
        constants_of(m)[n.input[2]].dtype.name
        for m in models
        for n in m.graph.node
        if n.op_type == "DequantizeLinear"
    }
    assert types == {"int8", "uint8", "int32"}
