"""The command line: exit codes, one-line errors, what goes to which stream."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.tiny_folder import write_bert, write_texts
from trt_int8 import __version__, cli

ROOT = Path(__file__).parent.parent.parent


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    output = capsys.readouterr()
    return int(ended.value.code or 0), output.out, output.err


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    write_bert(folder / "bert")
    write_texts(folder / "texts.txt")
    return folder


def arguments(inputs: Path, out: Path) -> list[str]:
    return [
        *("--model", str(inputs / "bert"), "--calib", str(inputs / "texts.txt")),
        *("--shapes", "batch=1:2:4,seq=8:16:40", "--target", "t4", "--out", str(out)),
        *("--min-cosine", "0.9", "--cache", str(out.parent / "cache")),
    ]


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"{__version__}\n", "")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ([], "Missing option '--model'"),
        (["--model", "x", "--bogus"], "No such option: --bogus"),
        (["--model", "gone.onnx"], "no model at 'gone.onnx'; wanted a folder with config.json"),
        (["--model", "x", "--flavour", "best"], "'--flavour'"),
        (
            ["--model", "x", "--shapes", "seq=5", "--shapes", "seq=5"],
            "profile 2 of --shapes is there twice",
        ),
        (["--model", "x", "--shapes", "batch=8:1:32"], "shape 8:1:32; wanted 0 < min <= opt"),
        (["--model", "x", "--target", "t5"], "unknown target 't5'"),
        (["--model", "x", "--recipe", "gone.toml"], "no recipe file 'gone.toml'"),
        (
            ["--model", "x", "--recipe", "fulll"],
            "recipe 'fulll' is unknown; wanted one of ffn, linear, linear+attention, full, ft1",
        ),
        (
            ["--model", "x", "--plugins", "attention,softmax"],
            "'softmax' is unknown; wanted auto or off alone, or any of attention, layernorm, gelu",
        ),
        (["--model", "gone.onnx", "--jobs", "0"], "--jobs is 0; wanted 1 to 1024"),
        (["--model", "gone.onnx", "--min-cosine", "3"], "--min-cosine is 3.0"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_exit_code_1(
    capsys: pytest.CaptureFixture[str], options: list[str], text: str
) -> None:
    code, _, error = run(capsys, "build", *options)
    assert code == 1
    assert error.startswith("error: ")
    assert text in error
    assert error.count("\n") == 1


def test_debug_adds_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    _, _, plain = run(capsys, "build", "--model", "gone.onnx")
    _, _, debug = run(capsys, "build", "--model", "gone.onnx", "--debug")
    assert "Traceback" not in plain
    assert "Traceback" in debug


def test_json_leaves_only_the_manifest_on_standard_output(
    capsys: pytest.CaptureFixture[str], inputs: Path, tmp_path: Path
) -> None:
    code, out, _ = run(capsys, "build", *arguments(inputs, tmp_path / "bundle"), "--json")
    assert code == 0
    assert json.loads(out) == json.loads((tmp_path / "bundle" / "manifest.json").read_text())


def test_a_missed_policy_is_exit_code_2_and_still_delivers(
    capsys: pytest.CaptureFixture[str], inputs: Path, tmp_path: Path
) -> None:
    options = [*arguments(inputs, tmp_path / "bundle"), "--min-cosine", "1"]
    code, out, _ = run(capsys, "build", *options)
    assert code == 2
    assert "wanted >= 1 (--min-cosine)" in out
    assert "recommended: fp16" in out
    assert (tmp_path / "bundle" / "sm75" / "fp16.engine").is_file()


def test_build_engine_py_is_the_build_command(tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "build_engine.py"), "--model", "gone.onnx"]
    ended = subprocess.run(script, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert ended.returncode == 1
    assert "no model at 'gone.onnx'" in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing_behind(
    inputs: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "engines" / "bundle"
    out.parent.mkdir()  # glob below fails if it appears while it looks
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "build_engine.py"), *arguments(inputs, out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        # A parent that ignores Ctrl-C (a CI runner) would hand that down.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 120
    while not list(out.parent.glob(".bundle.partial-*/.work/*.onnx")):
        assert process.poll() is None, process.stderr
        assert time.monotonic() < deadline
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.02)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in error
    assert [path.name for path in out.parent.iterdir()] in ([], ["cache"])
