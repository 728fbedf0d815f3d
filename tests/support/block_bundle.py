"""A bundle of hand-made engines: one Transformer block for SM75, INT8 and FP16 twin."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tests.support.bundles import manifest_of
from tests.support.plans import CONTEXT, MATMULS, SCORES, UP, block_plan, half_plan
from trt_int8.spec.coverage import EngineCoverage, NodeCoverage
from trt_int8.spec.manifest import MANIFEST_NAME, EngineEntry, Manifest


def node(name: str, **changes: Any) -> NodeCoverage:
    known = {
        "node": name, "role": "linear", "wanted_int8": True, "runs": "int8",
        "operands": ("int8", "int8"), "output": "float", "constant_weight": True,
        "kernel": name, "fused_attention": False, "reason": "",
    }  # fmt: skip
    return NodeCoverage.model_validate(known | changes)


def recorded(sm: int | None = 75) -> EngineCoverage:
    """What a build says of `block_plan`: all INT8 but the last matmul."""
    fused = {"role": "attention", "fused_attention": True, "kernel": "_gemm_mha_v2_myl0_3"}
    nodes = [node(n, **(fused if n in (SCORES, CONTEXT) else {})) for n in MATMULS]
    nodes[-1] = node(UP, runs="float", operands=("half", "half"), reason="no Q/DQ on <up>")
    return EngineCoverage(
        sm=sm, precision="int8", evidence="log", tensorrt_version="1", nodes=tuple(nodes),
        attentions=1, attentions_fused=1, attentions_int8=1,
    )  # fmt: skip


def recorded_half(sm: int | None = 75) -> EngineCoverage:
    """The same of `half_plan`."""
    whole = recorded(sm)
    nodes = tuple(
        each.model_copy(update={"runs": "float", "operands": ("half", "half"), "reason": "FP16"})
        for each in whole.nodes
    )
    changes = {"precision": "fp16", "nodes": nodes, "attentions_int8": 0}
    return whole.model_copy(update=changes)


def _save_onnx(path: Path, dtype: type[np.generic]) -> None:
    initializer = numpy_helper.from_array(np.zeros((7, 11), dtype), "w")
    onnx.save(helper.make_model(helper.make_graph([], "g", [], [], [initializer])), str(path))


def write_manifest(folder: Path, **changes: Any) -> None:
    """Vouch for the files as they are now."""
    folder_name = "sm75" if (folder / "sm75").exists() else "local"
    sm = 75 if folder_name == "sm75" else None
    engines = tuple(
        EngineEntry.model_validate({"path": f"{folder_name}/{p}.engine", "sm": sm, "precision": p})
        for p in ("int8", "fp16")
    )
    known = {"model": "my <model>", "engines": engines}
    manifest: Manifest = manifest_of(folder).model_copy(update=known | changes)
    (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")


def write_coverage(folder: Path, *coverage: EngineCoverage) -> None:
    listed = [each.model_dump(mode="json") for each in coverage]
    (folder / "coverage.json").write_text(json.dumps(listed), encoding="utf-8")


def make_block_bundle(folder: Path) -> Path:
    block_plan(folder / "sm75" / "int8.engine")
    half_plan(folder / "sm75" / "fp16.engine")
    _save_onnx(folder / "model.int8.onnx", np.int8)
    _save_onnx(folder / "model.fp16.onnx", np.float16)
    write_coverage(folder, recorded(), recorded_half())
    write_manifest(folder)
    return folder
