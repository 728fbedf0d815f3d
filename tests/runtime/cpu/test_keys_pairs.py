"""Where the Q/DQ pair of keys stands that are made transposed."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.runtime.cpu.test_keys import assert_same, rewritten, tokens
from tests.support.keys_graph import Step, attention, bias, linear, pair, split, turn
from tests.support.onnx_tiny import attribute, run_ort


def chain_behind(model: onnx.ModelProto, kind: str) -> list[str]:
    """Kinds of the operators from the first of a kind on, along results with one reader."""
    node = next(each for each in model.graph.node if each.op_type == kind)
    found = [node.op_type]
    while len(readers := [n for n in model.graph.node if node.output[0] in n.input]) == 1:
        node = readers[0]
        found.append(node.op_type)
    return found


@pytest.mark.parametrize("steps", [(split(), turn(), pair), (split(), pair, turn())])
def test_the_pair_stands_beside_the_bias_where_one_kernel_does_both(
    steps: tuple[Step, ...],
) -> None:
    model = attention(linear(), bias, *steps)
    made = chain_behind(rewritten(model), "Add")
    assert made == ["Add", "QuantizeLinear", "DequantizeLinear", "Reshape", "MatMul"]
    assert_same(model, rewritten(model), tokens())


def test_codes_that_something_else_reads_keep_their_place() -> None:
    model = attention(linear(), bias, split(), turn(), pair)
    turned = next(
        n for n in model.graph.node if n.op_type == "Transpose" and 3 in attribute(n, "perm")[2:3]
    )
    reader = next(n for n in model.graph.node if turned.output[0] in n.input)
    model.graph.output.append(
        onnx.helper.make_tensor_value_info(
            reader.output[0], onnx.TensorProto.INT8, ["a", "b", "c", "d"]
        )
    )
    made = rewritten(model)
    assert chain_behind(made, "Add")[:2] == ["Add", "Reshape"]
    answers = [run_ort(each, {"x": tokens()}) for each in (model, made)]
    assert len(answers[0]) == 2
    for before, after in zip(*answers, strict=True):
        np.testing.assert_array_equal(before, after)
