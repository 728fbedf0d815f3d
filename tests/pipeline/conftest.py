"""One bundle of a tiny BERT, built once per test process by the real main job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.tiny_folder import write_bert, write_texts
from trt_int8.pipeline.build import BuildOutcome, run_build
from trt_int8.pipeline.options import BuildOptions
from trt_int8.pipeline.progress import SilentReporter
from trt_int8.spec.manifest import Policy
from trt_int8.spec.shapes import parse_shapes
from trt_int8.spec.targets import parse_targets


@dataclass(frozen=True)
class Built:
    """The inputs and the outcome of a build."""

    options: BuildOptions
    outcome: BuildOutcome


def tiny_options(folder: Path, **changes: object) -> BuildOptions:
    """Options for the tiny BERT in `folder` (written by `write_bert` and `write_texts`)."""
    options = BuildOptions(
        model=str(folder / "bert"),
        out=folder / "bundle",
        targets=parse_targets("t4,a100"),
        flavour="rtx",
        calib=folder / "texts.txt",
        shapes=parse_shapes("batch=1:2:4,seq=8:16:40"),
        policy=Policy(min_cosine=0.95),
    )
    return options.model_copy(update=changes)


@pytest.fixture(scope="session")
def tiny_inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    write_bert(folder / "bert", sentence_head=True)
    write_texts(folder / "texts.txt")
    return folder


@pytest.fixture(scope="session")
def built(tiny_inputs: Path) -> Built:
    options = tiny_options(tiny_inputs)
    return Built(options, run_build(options, SilentReporter()))
