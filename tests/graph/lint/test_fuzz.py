"""No damage to a file, in its bytes or in its structure, makes the linter fall over."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, GraphProto, TensorProto, helper, numpy_helper

from tests.support.lint_graphs import attention, function_model
from trt_int8.errors import TrtInt8Error
from trt_int8.graph.lint.fix import fix_file
from trt_int8.graph.lint.run import UNJUDGED, lint_file
from trt_int8.spec.lint import Goal
from trt_int8.spec.shapes import default_profile

GOAL = Goal(sms=(75, 80), shapes=default_profile())
Mutate = Callable[[GraphProto, random.Random], None]


def drop_node(graph: GraphProto, chance: random.Random) -> None:
    del graph.node[chance.randrange(len(graph.node))]


def swap_inputs(graph: GraphProto, chance: random.Random) -> None:
    one, two = (chance.choice([n for n in graph.node if n.input]) for _ in range(2))
    first, second = chance.randrange(len(one.input)), chance.randrange(len(two.input))
    one.input[first], two.input[second] = two.input[second], one.input[first]


def drop_initializer(graph: GraphProto, chance: random.Random) -> None:
    del graph.initializer[chance.randrange(len(graph.initializer))]


def retype(graph: GraphProto, chance: random.Random) -> None:
    chance.choice(graph.initializer).data_type = chance.choice([0, 1, 2, 3, 7, 8, 10, 16, 22, 99])


def reshape(graph: GraphProto, chance: random.Random) -> None:
    tensor = chance.choice(graph.initializer)
    del tensor.dims[:]
    tensor.dims.extend(chance.choice([[], [0], [-1], [2**62, 2**62], [3, 1, 2], [1] * 9]))


def odd_attribute(graph: GraphProto, chance: random.Random) -> None:
    node = chance.choice(graph.node)
    name = chance.choice(["axis", "perm", "to", "block_size", "output_dtype", "transB"])
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    value = chance.choice([-9, 2**60, "text", 0.5, [1, 2, 3], [7.5], 22])
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def bare_attribute(graph: GraphProto, chance: random.Random) -> None:
    node = chance.choice(graph.node)
    kind = chance.choice([AttributeProto.GRAPH, AttributeProto.TENSOR, AttributeProto.INTS, 0])
    node.attribute.add(name="axis", type=kind)


def odd_constant(graph: GraphProto, chance: random.Random) -> None:
    tensor = chance.choice(graph.initializer)
    shape = chance.choice([(), (1,), (0,), (64,), (3, 2)])
    dtype = chance.choice([np.float32, np.float16, np.int8, np.uint8, np.int64])
    fill = chance.choice([0, 1, -3, np.nan, np.inf, -1e30])
    with np.errstate(all="ignore"):
        array = np.full(shape, fill).astype(dtype)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def loop(graph: GraphProto, chance: random.Random) -> None:
    early, late = sorted(chance.sample(range(len(graph.node)), 2))
    if graph.node[early].input and graph.node[late].output:
        graph.node[early].input[0] = graph.node[late].output[0]


def no_name(graph: GraphProto, chance: random.Random) -> None:
    node = chance.choice(graph.node)
    field = chance.choice(["name", "op_type", "input", "output"])
    if field in ("name", "op_type"):
        setattr(node, field, "")
    elif getattr(node, field):
        getattr(node, field)[0] = ""


def same_name(graph: GraphProto, chance: random.Random) -> None:
    one, two = (chance.choice(graph.node) for _ in range(2))
    one.name, one.output[0] = two.name, chance.choice([one.output[0], two.output[0]])


def other_operator(graph: GraphProto, chance: random.Random) -> None:
    kinds = ["Softmax", "Split", "Gemm", "Loop", "If", "Concat", "Mine", "Transpose", "Attention"]
    node = chance.choice(graph.node)
    node.op_type, node.domain = chance.choice(kinds), chance.choice(["", "", "com.microsoft"])


def huge_axes(graph: GraphProto, chance: random.Random) -> None:
    shape = chance.choice([*graph.input, *graph.output]).type.tensor_type.shape
    if chance.random() < 0.3:
        del shape.dim[:]
    for dim in shape.dim:
        dim.dim_value = chance.choice([0, -1, 2**62])


def no_type(graph: GraphProto, chance: random.Random) -> None:
    chance.choice([*graph.input, *graph.output]).ClearField("type")


MUTATIONS: tuple[Mutate, ...] = (
    drop_node, swap_inputs, drop_initializer, retype, reshape, odd_attribute, bare_attribute,
    odd_constant, loop, no_name, same_name, other_operator, huge_axes, no_type,
)  # fmt: skip
SEEDS = [attention().SerializeToString(), function_model(2).SerializeToString()]


def damaged_bytes(seed: int) -> bytes:
    chance = random.Random(seed)
    data = bytearray(chance.choice(SEEDS))
    if chance.random() < 0.3:
        return bytes(data[: chance.randrange(len(data))])
    # The first bytes of a tensor's data do no harm: aim at what surrounds the weights.
    for _ in range(chance.choice([1, 3, 30])):
        data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data)


def damaged_structure(seed: int) -> bytes:
    chance = random.Random(seed)
    model = onnx.ModelProto.FromString(chance.choice(SEEDS))
    for _ in range(chance.choice([1, 1, 2, 4])):
        if model.graph.node and model.graph.initializer:
            chance.choice(MUTATIONS)(model.graph, chance)
    if chance.random() < 0.1:
        del model.opset_import[:]
    elif chance.random() < 0.1:
        model.opset_import[0].version = chance.choice([-1, 0, 1, 9, 999])
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("damage", [damaged_bytes, damaged_structure])
def test_200_damaged_files_give_findings_or_one_clear_error(
    damage: Callable[[int], bytes], tmp_path: Path
) -> None:
    path, struck = tmp_path / "m.onnx", 0
    for seed in range(200):
        path.write_bytes(damage(seed))
        try:
            report = lint_file(path, GOAL)
        except TrtInt8Error:
            struck += 1
        else:
            struck += bool(report.findings)
            assert report.of_check(UNJUDGED.id) == (), seed
    # Some damage falls on weights, and is none.
    assert struck > 60


def test_fixing_damaged_files_writes_a_readable_file_or_nothing(tmp_path: Path) -> None:
    path, out = tmp_path / "m.onnx", tmp_path / "out.onnx"
    written = 0
    for seed in range(60):
        path.write_bytes(damaged_structure(seed))
        out.unlink(missing_ok=True)
        try:
            report = fix_file(path, out, GOAL)
        except TrtInt8Error:
            assert not out.exists(), seed
        else:
            written += 1
            assert report.after.nodes > 0, seed
            assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "out.onnx"], seed
    assert written > 5


def test_the_seeds_themselves_are_what_they_should_be(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    counts = []
    for data in SEEDS:
        path.write_bytes(data)
        counts.append(lint_file(path, GOAL).count("error"))
    assert counts == [0, 1]
    assert TensorProto.INT8 in {t.data_type for t in onnx.load(path).graph.initializer}
