"""Every plugin built by TensorRT and run on a card, beside its NumPy model.

Never run where this was written: there was no GPU. `make test-gpu` runs it. What could be shown
without one is in `tests/kernels/test_front_end.py`.
"""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.gpu.execution import execute, steps_apart
from tests.kernels.front_end.cases import Case
from tests.kernels.front_end.problems import PROBLEMS, Answer, solve
from trt_int8.engine.adapter import Adapter, ProgressSink, network_flags
from trt_int8.engine.flavour import local_sm
from trt_int8.engine.plugins import register_plugins
from trt_int8.plugins.signatures import NAMESPACE
from trt_int8.spec.build import BuildRequest, Flavour
from trt_int8.spec.shapes import InputShape, Profile

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorrt") is None,
        reason="needs the package tensorrt: pip install 'trt-int8[tensorrt,plugins]'",
    ),
    pytest.mark.skipif(local_sm() is None, reason="needs an NVIDIA GPU with its driver"),
]

# ex2.approx on a card may differ from the nearest float in its last bits, which moves a rounding
# now and then; then by one step.
ALLOWED_SHARE = 1e-3
ALLOWED_STEPS = 1.0


def build(case: Case, *, aot: bool) -> Any:
    """A serialised engine with this one layer."""
    trt = importlib.import_module("tensorrt")
    front_end = importlib.import_module("tensorrt.plugin")
    register_plugins(trt)
    builder = trt.Builder(trt.Logger())
    network = builder.create_network(network_flags(trt))
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    tensors = []
    for index, (kind, shape) in enumerate(zip(case.kinds, case.shapes, strict=True)):
        dynamic = [-1 if isinstance(size, str) else size for size in shape]
        tensors.append(network.add_input(f"in{index}", getattr(trt.DataType, kind), dynamic))
        ends = [
            [f(s[size] for s in case.sizes) if isinstance(size, str) else size for size in shape]
            for f in (min, max)
        ]
        profile.set_shape(f"in{index}", ends[0], ends[1], ends[1])
    config.add_optimization_profile(profile)
    name = case.plugin_id.removeprefix(f"{NAMESPACE}::")
    operation = getattr(getattr(front_end.op, NAMESPACE), name)
    layer = network.add_plugin(operation(*tensors, **case.attributes), aot)
    for index in range(layer.num_outputs):
        layer.get_output(index).name = f"out{index}"
        network.mark_output(layer.get_output(index))
    plan = builder.build_serialized_network(network, config)
    assert plan is not None
    return plan


def check(plan: Any, answer: Answer) -> None:
    inputs = {f"in{i}": np.ascontiguousarray(array) for i, array in enumerate(answer.inputs)}
    outputs = {f"out{i}": np.zeros_like(array) for i, array in enumerate(answer.outputs)}
    execute(plan, inputs, outputs)
    for got, wanted in zip(outputs.values(), answer.outputs, strict=True):
        apart = steps_apart(got, wanted)
        assert apart.max(initial=0) <= ALLOWED_STEPS
        assert np.mean(apart > 0) <= ALLOWED_SHARE


@pytest.mark.parametrize("aot", [True, False], ids=["aot", "jit"])
@pytest.mark.parametrize("name", PROBLEMS)
def test_a_plugin_computes_the_model(name: str, aot: bool) -> None:
    case = PROBLEMS[name]
    plan = build(case, aot=aot)
    for sizes in case.sizes:
        check(plan, solve(case, sizes))


def test_a_plugin_node_of_an_onnx_file_is_built_ahead_of_time(tmp_path: Path) -> None:
    case = PROBLEMS["gelu, table"]
    (sizes,) = case.sizes
    attributes: dict[str, Any] = dict(case.attributes)
    node = helper.make_node(
        case.plugin_id.removeprefix(f"{NAMESPACE}::"),
        ["in0"],
        ["out0"],
        domain=NAMESPACE,
        plugin_namespace=NAMESPACE,
        plugin_version="1",
        **attributes,
    )
    graph = helper.make_graph(
        [node],
        "one_plugin",
        [helper.make_tensor_value_info("in0", TensorProto.INT8, ["b", 33])],
        [helper.make_tensor_value_info("out0", TensorProto.INT8, ["b", 33])],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(NAMESPACE, 1)]
    file = tmp_path / "plugin.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets), str(file))
    shape = (sizes["b"], 33)
    profile: Profile = (InputShape(name="in0", min=shape, opt=shape, max=shape),)
    request = BuildRequest(
        onnx_path=str(file),
        engine_path=str(tmp_path / "plugin.plan"),
        evidence_path=str(tmp_path / "plugin.json"),
        flavour=Flavour.TENSORRT,
        sm=None,
        profiles=(profile,),
        uses_plugins=True,
    )
    plan, _ = Adapter(Flavour.TENSORRT).build(request, ProgressSink())
    check(plan, solve(case, sizes))
