"""The self-test's attention block, built for real, whole or with one Q/DQ pair taken out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from trt_int8.engine import layers_block, selftest
from trt_int8.engine.build import build_engines
from trt_int8.engine.coverage import Evidence, cover
from trt_int8.engine.plan_text import read_plan
from trt_int8.model.onnx_matmuls import find_matmuls
from trt_int8.spec.build import BuildRequest, Flavour
from trt_int8.spec.coverage import EngineCoverage


def request_for(onnx_path: Path, sm: int | None, flavour: Flavour = Flavour.RTX) -> BuildRequest:
    """An engine beside the ONNX file."""
    stem = f"{onnx_path.stem}.sm{sm}"
    return BuildRequest(
        flavour=flavour,
        onnx_path=str(onnx_path),
        engine_path=str(onnx_path.with_name(f"{stem}.engine")),
        evidence_path=str(onnx_path.with_name(f"{stem}.layers")),
        sm=sm,
        profiles=(selftest.SHAPES,),
    )


def saved_request(folder: Path, model: onnx.ModelProto, sm: int = 75) -> BuildRequest:
    """Save a model and ask for its engine."""
    path = folder / "block.onnx"
    onnx.save(model, str(path))
    return request_for(path, sm)


def build(requests: dict[str, BuildRequest]) -> None:
    build_engines(requests, 1, lambda label, fraction: None)


def evidence_of(request: BuildRequest) -> Evidence:
    """What the builder logged, with the plan's own text beside it."""
    return Evidence(
        source="test",
        version="test",
        layers=layers_block.parse(Path(request.evidence_path).read_text(encoding="utf-8")),
        operators=read_plan(Path(request.engine_path)).operators,
    )


def coverage_of(request: BuildRequest) -> EngineCoverage:
    sites = find_matmuls(onnx.load(request.onnx_path))
    return cover(sites, evidence_of(request), "int8", request.sm)


def not_int8(coverage: EngineCoverage) -> set[str]:
    return {node.node for node in coverage.nodes if node.runs != "int8"}


def without_pair(model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """A copy in which the operand that DequantizeLinear `name` makes is float again."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    dequantize = next(node for node in graph.node if node.name == name)
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    if dequantize.input[0] in weights:
        codes, scale = (weights[value] for value in dequantize.input[:2])
        values = (codes.astype(np.float32) * scale).astype(np.float32)
        source = f"{name}/float"
        graph.initializer.append(numpy_helper.from_array(values, source))
    else:
        quantize = next(node for node in graph.node if node.output[0] == dequantize.input[0])
        source = quantize.input[0]
        graph.node.remove(quantize)
    for node in graph.node:
        for index, value in enumerate(node.input):
            if value == dequantize.output[0]:
                node.input[index] = source
    graph.node.remove(dequantize)
    return copy
