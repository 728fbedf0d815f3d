"""A repository served by the real server, where there is one: see docs/triton.md."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.runtime.triton.tiny import CLASSES, make_bundle
from trt_int8.runtime.triton.export import export_triton
from trt_int8.runtime.triton.options import TritonOptions

COMMAND = os.environ.get("TRT_INT8_TRITONSERVER", "")
START_SECONDS = 60

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not COMMAND, reason="TRT_INT8_TRITONSERVER names no server's command"),
]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def served(repo: Path) -> Iterator[Any]:
    """A client of a server that ends with the block."""
    grpc = pytest.importorskip("tritonclient.grpc")
    port = free_port()
    options = (
        f"--model-repository={repo}",
        "--grpc-address=127.0.0.1",
        f"--grpc-port={port}",
        "--allow-http=false",
        "--allow-metrics=false",
    )
    server = subprocess.Popen([*shlex.split(COMMAND), *options])
    try:
        client = grpc.InferenceServerClient(f"127.0.0.1:{port}")
        wait_for(client, server)
        yield client
    finally:
        server.terminate()
        server.wait(START_SECONDS)


def wait_for(client: Any, server: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        assert server.poll() is None, "the server ended"
        try:
            if client.is_server_ready():
                return
        except Exception:  # noqa: BLE001, S110 - it does not listen yet
            pass
        time.sleep(0.2)
    pytest.fail("the server is not ready")


def test_strings_are_answered_by_the_server(tmp_path: Path) -> None:
    grpc = pytest.importorskip("tritonclient.grpc")
    bundle = make_bundle(tmp_path / "bundle", text=CLASSES)
    repo = export_triton(bundle, tmp_path / "repo", TritonOptions(device="cpu", text=True)).folder
    texts = np.array([[b"a ship"], [b"the small word"]], dtype=np.object_)
    given = grpc.InferInput("text", [2, 1], "BYTES")
    given.set_data_from_numpy(texts)
    with served(repo) as client:
        answer = client.infer("tiny_text", [given])
        raw = answer.as_numpy("scores")
    counts = np.array([[4], [5]], np.float32)
    powers = np.exp(counts * np.array([0.5, -0.25, 0.125], np.float32))
    np.testing.assert_allclose(raw, powers / powers.sum(axis=1, keepdims=True), rtol=1e-6)
    assert answer.as_numpy("label").tolist() == [[b"good"], [b"good"]]
