"""A bundle as the runtime meets it: two models, engines for SM75 and SM80, a tokenizer."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.bundles import fill, manifest_of
from tests.support.plans import header
from trt_int8.runtime.gpu.cards import Card
from trt_int8.spec.build import Flavour
from trt_int8.spec.manifest import MANIFEST_NAME, EngineEntry, Manifest

VERSION = "1.7.1.116"
T4 = Card(index=0, name="Tesla T4", sm=75, memory_bytes=1 << 34, driver_version=13000)
A100 = Card(index=1, name="NVIDIA A100", sm=80, memory_bytes=1 << 36, driver_version=13000)
A10 = Card(index=0, name="NVIDIA A10", sm=86, memory_bytes=1 << 35, driver_version=13000)


def plan(body: bytes, mask: int) -> bytes:
    return header(body, mask) + body


FILES = {
    "model.int8.onnx": b"graph of the INT8 model",
    "model.fp16.onnx": b"graph of the other, FP16 model",
    "sm75/int8.engine": plan(b"int8 for Turing", 1),
    "sm75/fp16.engine": plan(b"fp16 for Turing, longer", 1),
    "sm80/int8.engine": plan(b"int8 for Ampere", 2),
    "sm80/fp16.engine": plan(b"fp16 for Ampere, longer", 2),
    "tokenizer/vocab.txt": b"[PAD]\n[UNK]\n",
}
ENGINES = tuple(
    EngineEntry.model_validate({"path": f"sm{sm}/{p}.engine", "sm": sm, "precision": p})
    for sm in (75, 80)
    for p in ("int8", "fp16")
)


class Installed:
    """Answers which TensorRT is installed; keeps what it was asked."""

    def __init__(self, version: str = VERSION) -> None:
        self.version = version
        self.asked: list[Flavour] = []

    def __call__(self, flavour: Flavour) -> str:
        self.asked.append(flavour)
        return self.version


def make(folder: Path, **changes: Any) -> Path:
    """A sound bundle; `changes` go into its manifest."""
    fill(folder, FILES)
    vouch(folder, **changes)
    return folder


def vouch(folder: Path, **changes: Any) -> Manifest:
    """Write a manifest of the files as they are."""
    known = {"engines": ENGINES, "tensorrt_version": VERSION, "packages": {"trt-int8": "0.1.0"}}
    manifest = manifest_of(folder).model_copy(update=known | changes)
    (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return manifest


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Edit the manifest as a hand would: `change` gets the JSON object."""
    path = folder / MANIFEST_NAME
    fields = json.loads(path.read_text(encoding="utf-8"))
    change(fields)
    path.write_text(json.dumps(fields), encoding="utf-8")


def flip(path: Path, index: int) -> None:
    """Change one bit of one byte; a negative index counts from the end."""
    data = bytearray(path.read_bytes())
    data[index] ^= 0x10
    path.write_bytes(data)


def swap(first: Path, second: Path) -> None:
    beside = first.with_name("beside")
    shutil.move(first, beside)
    shutil.move(second, first)
    shutil.move(beside, second)


def library(machine: int = 62, body: bytes = b"code") -> bytes:
    """An ELF header of a 64-bit shared object, and something behind it."""
    start = b"\x7fELF\x02\x01".ljust(16, b"\0") + struct.pack("<HH", 3, machine)
    return start.ljust(64, b"\0") + body


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
