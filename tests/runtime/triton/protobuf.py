"""A configuration as NVIDIA's own protobuf message reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format


def read_config(path: Path) -> Any:
    """Parse `config.pbtxt` strictly: an unknown field or enumerator is an error."""
    return parse_config(path.read_text(encoding="ascii"))


def parse_config(text: str) -> Any:
    pytest.importorskip("tritonclient", reason="tritonclient is not installed")
    grpc = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="grpcio is missing")
    return text_format.Parse(text, grpc.ModelConfig())
