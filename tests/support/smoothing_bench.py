"""A tiny BERT with outlier channels, and builds of it with and without smoothing."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from tests.pipeline.conftest import tiny_options
from tests.support.onnx_tiny import run_ort
from tests.support.tiny_folder import write_bert, write_texts
from tests.support.tiny_transformers import tiny_backbone
from trt_int8.calibrate.texts import read_texts
from trt_int8.evaluate.compare import output_cosines
from trt_int8.model.source import resolve_source
from trt_int8.pipeline.data import PreparedModel
from trt_int8.pipeline.entrance import Entrance
from trt_int8.pipeline.progress import SilentReporter
from trt_int8.pipeline.ranges import choose_ranges
from trt_int8.pipeline.torch_entrance import enter_torch
from trt_int8.spec.ranges import RangeTable
from trt_int8.spec.recipe import CalibrationSettings, Recipe
from trt_int8.spec.smoothing import Smoothing

KINDS = ("torch", "onnx")
OUTLIERS = [5, 40]


def write_outlier_bert(folder: Path, gain: float = 20.0) -> Path:
    """Save `bert` and `texts.txt`; one layer.

    Two channels of what Q, K and V read, and of what the feed-forward network reads, are `gain`
    times as large as LayerNorm left them, and the weights that read them smaller by as much.
    """
    write_bert(folder / "bert", sentence_head=True)
    write_texts(folder / "texts.txt", 60)
    model = tiny_backbone("Bert", num_hidden_layers=1)
    layer = model.encoder.layer[0]
    attention = layer.attention
    readers = {
        model.embeddings.LayerNorm: [getattr(attention.self, n) for n in ("query", "key", "value")],
        attention.output.LayerNorm: [layer.intermediate.dense],
    }
    with torch.no_grad():
        for norm, linears in readers.items():
            norm.weight[OUTLIERS] *= gain
            for linear in linears:
                linear.weight[:, OUTLIERS] /= gain
    model.save_pretrained(folder / "bert")
    return folder


@dataclass(frozen=True)
class Outcome:
    """An entrance that was calibrated, its ranges and what it was told."""

    entrance: Entrance
    table: RangeTable
    notes: list[str]

    @cached_property
    def prepared(self) -> PreparedModel:
        """Both twins."""
        return self.entrance.finish(self.table, SilentReporter())

    @property
    def smoothing(self) -> Smoothing:
        """There is one."""
        assert self.table.smoothing is not None
        return self.table.smoothing

    def cosines(self) -> list[float]:
        """Of its INT8 answers with its float ones, on texts it was not calibrated with."""
        batches = self.entrance.data.held_out
        exact = self.entrance.answers(None, batches)
        return output_cosines(exact, self.entrance.answers(self.table.ranges, batches), batches)


@dataclass(frozen=True)
class Bench:
    """Entrances of one model that was loaded once; outcomes are kept."""

    folder: Path
    loaded: dict[str, Entrance]
    kept: dict[tuple[str, object], Outcome] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> Bench:
        """Write the model to a folder and load it by both entrances."""
        write_outlier_bert(folder)
        source, texts = resolve_source(str(folder / "bert")), read_texts(folder / "texts.txt")
        options, reporter = tiny_options(folder), SilentReporter()
        loaded = {
            kind: enter_torch(source, options, reporter, texts, as_graph=kind == "onnx")
            for kind in KINDS
        }
        return cls(folder, loaded)

    def entrance(self, kind: str) -> Entrance:
        """A copy, for smoothing changes it."""
        return copy.deepcopy(self.loaded[kind])

    def calibrated(self, kind: str, smooth: object, **changes: object) -> Outcome:
        """Calibrated now, with these options."""
        entrance, reporter = self.entrance(kind), SilentReporter()
        options = tiny_options(self.folder, recipe=recipe(smooth), **changes)
        return Outcome(entrance, choose_ranges(entrance, options, reporter), reporter.notes)

    def known(self, kind: str, smooth: object) -> Outcome:
        """Calibrated once for all tests."""
        key = (kind, smooth)
        if key not in self.kept:
            self.kept[key] = self.calibrated(kind, smooth)
        return self.kept[key]


def recipe(smooth: object, **changes: object) -> Recipe:
    settings = CalibrationSettings(method="max")
    return Recipe(smooth=smooth, calibration=settings, **changes)  # type: ignore[arg-type]


def peaks_by_site(entrance: Entrance) -> dict[str, Any]:
    """Largest |x| per channel and site, by ONNX Runtime with all sites as outputs."""
    model = onnx.ModelProto()
    model.CopyFrom(entrance._float)  # type: ignore[attr-defined]
    sites = [group[0] for group in entrance.smoothing_groups()]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=site) for site in sites)
    runs = [run_ort(model, batch) for batch in entrance.data.calibration]
    return {
        site: np.max([np.abs(run[i]).reshape(-1, run[i].shape[-1]).max(axis=0) for run in runs], 0)
        for i, site in enumerate(sites)
    }
