"""Float ONNX files from anywhere reach the same INT8 count: one tiny BERT, exported many ways."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch

from tests.support.foreign_exports import (
    flat_gemms,
    guarded_softmax,
    split_softmax,
    tensorflow_names,
    transposed_weights,
)
from tests.support.onnx_tiny import run_ort
from tests.support.tiny_folder import write_texts, write_tokenizer
from tests.support.tiny_transformers import tiny_backbone, tokens
from trt_int8.graph.normalize import normalize
from trt_int8.model.heads import ExportWrapper
from trt_int8.model.onnx_matmuls import find_attentions, find_matmuls
from trt_int8.model.source import resolve_source
from trt_int8.pipeline.build import run_build
from trt_int8.pipeline.calibration_data import read_data
from trt_int8.pipeline.onnx_entrance import OnnxEntrance, enter_onnx
from trt_int8.pipeline.options import BuildOptions
from trt_int8.pipeline.progress import SilentReporter
from trt_int8.spec.recipe import CalibrationSettings, Recipe
from trt_int8.spec.shapes import parse_shapes
from trt_int8.spec.targets import parse_targets

NAMES = ["input_ids", "attention_mask"]
Change = Callable[[onnx.ModelProto], onnx.ModelProto]


def exported(path: Path, opset: int, attention: str = "eager") -> onnx.ModelProto:
    """As `torch.onnx.export(dynamo=False)` writes it."""
    backbone = tiny_backbone("Bert")
    backbone.set_attn_implementation(attention)
    wrapper = ExportWrapper(backbone, ("input_ids", "attention_mask"), None).eval()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            wrapper,
            tokens(),
            str(path),
            opset_version=opset,
            dynamo=False,
            input_names=NAMES,
            output_names=["hidden"],
            dynamic_axes={name: {0: "batch", 1: "sequence"} for name in [*NAMES, "hidden"]},
        )
    return onnx.load(str(path))


def options(folder: Path, model: Path) -> BuildOptions:
    write_tokenizer(folder / "tokenizer")
    return BuildOptions(
        model=str(model),
        tokenizer=folder / "tokenizer",
        calib=write_texts(folder / "texts.txt"),
        shapes=parse_shapes("batch=1:2:4,seq=8:16:40"),
        recipe=Recipe(calibration=CalibrationSettings(method="max")),
        flavour="rtx",
        targets=parse_targets("t4"),
        out=folder / "bundle",
        jobs=1,
    )


def entered(folder: Path, model: onnx.ModelProto) -> OnnxEntrance:
    path = folder / "given.onnx"
    onnx.save(model, str(path))
    given = options(folder, path)
    entrance = enter_onnx(
        resolve_source(str(path)), given, SilentReporter(), read_data(given.calib)
    )
    assert isinstance(entrance, OnnxEntrance)
    return entrance


def counts(entrance: OnnxEntrance) -> tuple[int, int]:
    """Linear matmuls and attentions that the plan makes INT8."""
    graph = entrance._graph
    sites = [site for site in find_matmuls(graph) if site.role in ("linear", "attention")]
    assert len(sites) == 16
    planned = {node for node, _, _ in entrance._plan.operands}
    assert {site.node for site in sites} <= planned
    return len(sites), len(find_attentions(ir.from_proto(graph).graph))


def same_answers(one: onnx.ModelProto, other: onnx.ModelProto) -> None:
    ids, mask = tokens(3, 9, seed=4)
    feeds = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
    np.testing.assert_allclose(run_ort(one, feeds)[0], run_ort(other, feeds)[0], atol=2e-5)


@pytest.mark.parametrize(
    ("opset", "attention"),
    [(13, "eager"), (15, "eager"), (17, "eager"), (20, "eager"), (14, "sdpa"), (18, "sdpa")],
)
def test_any_opset_and_attention_of_the_tracing_exporter(
    tmp_path: Path, opset: int, attention: str
) -> None:
    model = exported(tmp_path / "m.onnx", opset, attention)
    entrance = entered(tmp_path, model)
    assert counts(entrance) == (16, 2)
    same_answers(model, entrance._graph)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_dynamo_exporter(tmp_path: Path, attention: str) -> None:
    backbone = tiny_backbone("Bert")
    backbone.set_attn_implementation(attention)
    wrapper = ExportWrapper(backbone, ("input_ids", "attention_mask"), None).eval()
    axes = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=40)}
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            wrapper,
            tokens(),
            str(tmp_path / "m.onnx"),
            dynamo=True,
            external_data=False,
            verbose=False,
            input_names=NAMES,
            output_names=["hidden"],
            dynamic_shapes={"inputs": (axes, axes)},
        )
    model = onnx.load(str(tmp_path / "m.onnx"))
    entrance = entered(tmp_path, model)
    assert counts(entrance) == (16, 2)
    same_answers(model, entrance._graph)


@pytest.mark.parametrize(
    "change",
    [transposed_weights, flat_gemms, split_softmax, guarded_softmax, tensorflow_names],
)
def test_other_ways_to_write_the_same(tmp_path: Path, change: Change) -> None:
    # Opset 13 has LayerNorm and GELU as primitives.
    model = exported(tmp_path / "m.onnx", 13)
    entrance = entered(tmp_path, change(model))
    assert counts(entrance) == (16, 2)
    same_answers(model, entrance._graph)


def tensorflow_like(model: onnx.ModelProto) -> onnx.ModelProto:
    """All of it together."""
    return tensorflow_names(split_softmax(flat_gemms(model)))


def test_all_of_them_together(tmp_path: Path) -> None:
    model = exported(tmp_path / "m.onnx", 13)
    entrance = entered(tmp_path, tensorflow_like(model))
    assert counts(entrance) == (16, 2)
    same_answers(model, entrance._graph)


def test_a_softmax_in_parts_would_hide_the_attention(tmp_path: Path) -> None:
    """The tests above can fail: without the rewriting the plan finds no attention."""
    model = normalize(split_softmax(exported(tmp_path / "m.onnx", 13)))
    assert find_attentions(ir.from_proto(model).graph) == ()


def with_attention_operator(folder: Path) -> onnx.ModelProto:
    """As `torch.onnx.export(dynamo=True)` writes it from opset 23 on."""
    model = normalize(exported(folder / "m.onnx", 20))
    graph = ir.from_proto(model)
    nodes = {value.name: node for node in graph.graph for value in node.outputs}

    def maker(value: ir.Value | None) -> ir.Node:
        return nodes[str(value.name) if value is not None else ""]

    for site in find_attentions(graph.graph):
        masked = maker(site.softmax.inputs[0])
        (mask,) = [v for v in masked.inputs if maker(v).op_type not in ("Mul", "Div")]
        perm = [ir.AttrInt64s("perm", (0, 2, 1, 3))]
        keys = ir.Node("", "Transpose", [maker(site.scores.inputs[1]).inputs[0]], perm)
        query, value = site.scores.inputs[0], site.context.inputs[1]
        node = ir.Node("", "Attention", [query, keys.outputs[0], value, mask])
        keys.outputs[0].name = f"{site.context.outputs[0].name}_keys"
        node.outputs[0].name = f"{site.context.outputs[0].name}_attended"
        graph.graph.insert_after(site.context, [keys, node])
        site.context.outputs[0].replace_all_uses_with(node.outputs[0])
    graph.graph.opset_imports[""] = 23
    return ir.to_proto(graph)


def test_the_attention_operator_of_opset_23(tmp_path: Path) -> None:
    model = with_attention_operator(tmp_path)
    assert sum(node.op_type == "Attention" for node in model.graph.node) == 2
    entrance = entered(tmp_path, model)
    assert counts(entrance) == (16, 2)
    same_answers(model, entrance._graph)


@pytest.mark.slow
@pytest.mark.parametrize("change", [tensorflow_like, guarded_softmax])
def test_their_attention_is_one_int8_kernel(tmp_path: Path, change: Change) -> None:
    path = tmp_path / "given.onnx"
    onnx.save(change(exported(tmp_path / "m.onnx", 13)), str(path))
    outcome = run_build(options(tmp_path, path), SilentReporter())
    (int8,) = [engine for engine in outcome.coverage if engine.precision == "int8"]
    assert (int8.int8_count, len(int8.counted), int8.attentions_int8) == (16, 16, 2)
