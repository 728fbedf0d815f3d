"""Tiny bundles to export: a graph by hand, and engines that are bytes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from trt_int8.engine.bundle import list_files
from trt_int8.spec.build import Flavour
from trt_int8.spec.manifest import MANIFEST_NAME, EngineEntry, Manifest, Policy, Verdict
from trt_int8.spec.recipe import Recipe
from trt_int8.spec.shapes import InputShape, Profile
from trt_int8.spec.text import TextSettings

LABELS = ("good", "bad", "so so")
CLASSES = TextSettings(task="classification", labels=LABELS, pad_token_id=1, max_tokens=20)
WORDS = ("[UNK]", "[PAD]", "[CLS]", "[SEP]", "a", "small", "word", "in", "the", "ship")


def profile(batch: tuple[int, int, int], tokens: tuple[int, int, int]) -> Profile:
    sizes = [tuple(pair) for pair in zip(batch, tokens, strict=True)]
    return tuple(
        InputShape(name=name, min=sizes[0], opt=sizes[1], max=sizes[2])
        for name in ("input_ids", "attention_mask")
    )


ONE_PROFILE = (profile((1, 4, 6), (8, 16, 20)),)
TWO_PROFILES = (profile((1, 4, 6), (8, 8, 16)), profile((1, 2, 3), (17, 20, 24)))


def classifier(batch: str | int = "batch") -> onnx.ModelProto:
    """logits[b] = (number of real tokens) * (0.5, -0.25, 0.125)."""
    ids = helper.make_tensor_value_info("input_ids", TensorProto.INT64, [batch, "sequence"])
    mask = helper.make_tensor_value_info("attention_mask", TensorProto.INT64, [batch, "sequence"])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 3])
    weights = helper.make_tensor("w", TensorProto.FLOAT, [1, 3], [0.5, -0.25, 0.125])
    axis = helper.make_tensor("axis", TensorProto.INT64, [1], [1])
    nodes = [
        helper.make_node("Mul", ["input_ids", "attention_mask"], ["real_ids"]),
        helper.make_node("Sub", ["real_ids", "real_ids"], ["zeros"]),
        helper.make_node("Add", ["zeros", "attention_mask"], ["real"]),
        helper.make_node("Cast", ["real"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["floats", "axis"], ["count"], keepdims=1),
        helper.make_node("MatMul", ["count", "w"], ["logits"]),
    ]
    graph = helper.make_graph(nodes, "tiny", [ids, mask], [logits], [weights, axis])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def tagger() -> onnx.ModelProto:
    """logits[b, s] = mask[b, s] * (0.5, -0.25, 0.125): an output per token."""
    model = classifier()
    del model.graph.node[4:]
    del model.graph.initializer[1]
    axis = helper.make_tensor("last", TensorProto.INT64, [1], [2])
    model.graph.initializer.append(axis)
    model.graph.node.append(helper.make_node("Unsqueeze", ["floats", "last"], ["column"]))
    model.graph.node.append(helper.make_node("MatMul", ["column", "w"], ["logits"]))
    shape: list[str | int | None] = ["batch", "sequence", 3]
    model.graph.output[0].CopyFrom(
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)
    )
    return model


def tokenizer_json() -> str:
    """A whitespace tokenizer with [CLS] … [SEP] around, as the library `tokenizers` saves it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    tokenizer = Tokenizer(
        models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return str(tokenizer.to_str())


def make_bundle(folder: Path, **changes: Any) -> Path:
    """A bundle of flavour tensorrt for SM75 and SM80 with one profile; `changes` to its manifest.

    `graph` replaces the ONNX graph.
    """
    model = changes.pop("graph", None) or classifier()
    folder.mkdir(parents=True)
    for name in ("model.int8.onnx", "model.fp16.onnx"):
        (folder / name).write_bytes(model.SerializeToString())
    for sm in (75, 80):
        (folder / f"sm{sm}").mkdir()
        for precision in ("int8", "fp16"):
            (folder / f"sm{sm}" / f"{precision}.engine").write_bytes(f"{sm}{precision}".encode())
    if changes.get("text") is not None:
        (folder / "tokenizer").mkdir()
        (folder / "tokenizer" / "tokenizer.json").write_text(tokenizer_json(), encoding="utf-8")
    engines = [
        EngineEntry(path=f"sm{sm}/{precision}.engine", sm=sm, precision=precision)
        for sm in (75, 80)
        for precision in ("int8", "fp16")
    ]
    given: dict[str, Any] = {
        "model": "tiny",
        "model_sha256": "5" * 64,
        "calibration_sha256": "6" * 64,
        "flavour": Flavour.TENSORRT,
        "tensorrt_version": "10.9.0.34",
        "engines": tuple(engines),
        "profiles": ONE_PROFILE,
        "recipe": Recipe(),
        "policy": Policy(),
        "verdict": Verdict(recommended="int8", failures=()),
        "packages": {},
        "files": list_files(folder),
    }
    manifest = Manifest(**(given | changes))
    (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return folder


def settings_of(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "1" / "settings.json").read_text(encoding="utf-8"))
    return read
