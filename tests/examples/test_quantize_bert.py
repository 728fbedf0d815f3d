"""The script of a user who knows only pytorch-quantization, all the way to engines."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from tests.support.onnx_tiny import constants_of
from tests.support.tiny_folder import write_texts
from trt_int8.graph.normalize import normalize
from trt_int8.model.onnx_matmuls import find_matmuls
from trt_int8.pipeline.build import run_build
from trt_int8.pipeline.options import BuildOptions
from trt_int8.pipeline.progress import SilentReporter
from trt_int8.spec.shapes import parse_shapes
from trt_int8.spec.targets import parse_targets

SCRIPT = Path(__file__).parents[2] / "examples" / "quantize_bert.py"
LINEARS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("example")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(out)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    write_texts(out / "texts.txt")
    return out


def test_the_script_imports_nothing_of_ours() -> None:
    tree = ast.parse(SCRIPT.read_text(encoding="utf-8"))
    names = [a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names]
    names += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert "pytorch_quantization" in names
    assert not [name for name in names if name.startswith("trt_int8")]


def test_its_file_has_float_weights_behind_pairs_as_pytorch_exports_them(folder: Path) -> None:
    model = onnx.load(str(folder / "bert.qdq.onnx"))
    assert not [a for a in constants_of(model).values() if a.dtype == "i1" and a.ndim == 2]


def test_every_linear_of_its_file_has_int8_operands_in_normal_form(folder: Path) -> None:
    sites = find_matmuls(normalize(onnx.load(str(folder / "bert.qdq.onnx"))))
    linears = [site for site in sites if site.role == "linear"]
    assert len(linears) == LINEARS
    assert all(site.wanted_int8 for site in linears)


def test_all_its_linears_run_int8_on_t4_and_a100(folder: Path) -> None:
    options = BuildOptions(
        model=str(folder / "bert.qdq.onnx"),
        out=folder / "bundle",
        targets=parse_targets("t4,a100"),
        flavour="rtx",
        calib=folder / "texts.txt",
        shapes=parse_shapes("batch=1:2:4,seq=8:16:40"),
    )
    reporter = SilentReporter()
    outcome = run_build(options, reporter)
    assert any("its own ranges are kept" in note for note in reporter.notes)
    int8 = [engine for engine in outcome.coverage if engine.precision == "int8"]
    assert [(e.sm, e.int8_count, len(e.counted)) for e in int8] == [(75, 12, 16), (80, 12, 16)]
    linears = [node for engine in int8 for node in engine.nodes if node.role == "linear"]
    assert {(node.output, node.constant_weight) for node in linears} == {("float", True)}
    assert outcome.manifest.verdict.failures == ()
