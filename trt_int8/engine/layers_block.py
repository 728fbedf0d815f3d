"""Read the `Layers:` block that TensorRT-RTX's builder logs at VERBOSE with DETAILED profiling."""

from __future__ import annotations

import re

from trt_int8.engine.evidence import (
    EngineLayer,
    EngineTensor,
    data_type,
    layer_kind,
    onnx_nodes,
    with_profiles,
)
from trt_int8.errors import CoverageError

_LINE = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<type>\w+), Inputs: \[(?P<inputs>.*?)\], "
    r"Constants: \[(?P<constants>.*?)\], Outputs: \[(?P<outputs>.*?)\], "
    r"TacticName: (?P<tactic>.*?), StreamId: \d+, Metadata: (?P<metadata>.*)$"
)
# Layers outside the fused graph (copies of shape values, plugins) have a shorter form; they
# never count as INT8, so their name is enough.
_SHORT_LINE = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<type>\w+)\b")
# What follows the layers in the same message; its lines are indented.
_END = re.compile(r"^(?:I/O Tensors|Bindings|Engine Metadata):", re.MULTILINE)
_KERNEL_TYPES = ("gemm", "kgen", "runtime_fusion", "fusion")
_TENSOR = re.compile(r"\{ Name: (.*?), Dimensions: \[.*?\],.*?Datatype: (\w+)")


def extract(log: list[str]) -> str:
    """The lines of the `Layers:` block in a builder log; empty if there is none."""
    for message in log:
        text = message.strip()
        if text.startswith("Layers:"):
            return text
    return ""


def parse(block: str) -> tuple[EngineLayer, ...]:
    """Turn the block into layers.

    Raises:
        CoverageError: the block is missing or a line of it cannot be read; nothing is guessed.
    """
    head, _, text = block.partition("\n")
    lines = [line for line in _END.split(text, maxsplit=1)[0].splitlines() if line.strip()]
    if head.strip() != "Layers:" or not lines:
        raise CoverageError(
            "the builder log has no readable 'Layers:' block",
            wanted="one line per kernel",
            todo="install the TensorRT-RTX version that the constraints file pins",
        )
    return with_profiles(_layer(line) for line in lines)


def _layer(line: str) -> EngineLayer:
    match = _LINE.match(line)
    if match is None:
        short = _SHORT_LINE.match(line)
        if short is not None and short["type"] not in _KERNEL_TYPES:
            return EngineLayer(short["name"], "other", (), (), (), ())
        raise CoverageError(
            f"a line of the 'Layers:' block has an unknown form: {line[:80]!r}",
            wanted="Name, LayerType, Inputs, Constants, Outputs, TacticName, StreamId, Metadata",
            todo="install the TensorRT-RTX version that the constraints file pins",
        )
    return EngineLayer(
        name=match["name"],
        kind=layer_kind(match["type"], match["name"]),
        inputs=_tensors(match["inputs"]),
        constants=_tensors(match["constants"]),
        outputs=_tensors(match["outputs"]),
        onnx_nodes=onnx_nodes(match["metadata"]),
    )


def _tensors(text: str) -> tuple[EngineTensor, ...]:
    return tuple(EngineTensor(name, data_type(dtype)) for name, dtype in _TENSOR.findall(text))
