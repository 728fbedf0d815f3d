"""`trt-int8 run` and its streams: standard input, and pipes that nobody reads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import pytest

from tests.cli.test_run import made, run
from tests.support.text_models import write_unigram
from trt_int8.runtime.text.session import TextSession


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("encoder"), write_unigram, "Model")


def started(*arguments: object) -> tuple[Any, IO[bytes], IO[bytes], IO[bytes]]:
    """A process of `run`, and its three streams."""
    program = "from trt_int8.cli.app import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-c", program, "run", *map(str, arguments), "--device", "cpu"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    return process, process.stdin, process.stdout, process.stderr


def test_standard_input_is_read_and_a_closed_pipe_is_quiet(encoder: Path) -> None:
    process, given, shown, told = started(encoder, "--file", "-", "--json")
    given.write(b"fox\n" * 3000)
    given.close()
    first = shown.readline()
    shown.close()
    errors = told.read()
    told.close()
    assert json.loads(first)["text"] == "fox"
    assert process.wait() == 141
    assert errors == b""


@pytest.mark.parametrize("options", [("--json",), ()])
def test_a_pipe_that_is_closed_before_anything_is_written_is_quiet(
    encoder: Path, options: tuple[str, ...]
) -> None:
    process, given, shown, told = started(encoder, "--text", "fox", *options)
    given.close()
    shown.close()
    errors = told.read()
    told.close()
    assert process.wait() == 141
    assert errors == b""


def test_a_standard_input_that_is_closed_is_one_line(
    encoder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert run(encoder, "--file", "-") == 1
    assert "standard input cannot be read (it is closed)" in capsys.readouterr().err


def test_a_pipe_that_breaks_elsewhere_is_an_error(
    encoder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Such as that of a worker."""

    def broken(*_: Any, **__: Any) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr(TextSession, "open", broken)
    assert run(encoder, "--text", "fox") == 1
    assert "Broken pipe; a process ended early" in capfd.readouterr().err
