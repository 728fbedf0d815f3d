"""What a check of a bundle found: each file, and each device of the machine."""

from __future__ import annotations

from typing import Literal

from trt_int8.spec.base import Frozen
from trt_int8.spec.build import Precision

FileState = Literal[
    "whole", "missing", "cut off", "swapped", "changed", "unreadable", "unsafe", "contradicts",
    "wrong library", "not listed",
]  # fmt: skip


class FileReport(Frozen):
    """One file.

    Attributes:
        name: path inside the bundle.
        size_bytes: as the manifest says; of an unlisted file, as it is.
        state: `whole`, or what is wrong; `not listed` harms nothing, for it is never used.
        problem: the message, if something is wrong.
    """

    name: str
    size_bytes: int | None
    state: FileState
    problem: str | None = None


class DeviceReport(Frozen):
    """One device of this machine.

    Attributes:
        device: `cpu` or `cuda:N`.
        name: of the card, or of the package that runs the model on the CPU.
        runs: path inside the bundle of what would run; None if it cannot.
        problem: why not.
        notes: what should be known before it runs.
    """

    device: str
    name: str
    runs: str | None
    problem: str | None = None
    notes: tuple[str, ...] = ()


class BundleReport(Frozen):
    """What a check found.

    Attributes:
        path: of the bundle.
        model: its name.
        flavour: which TensorRT built its engines.
        tensorrt_version: of it.
        precision: of what is to run.
        whole: every listed file is there and the one it was.
        files: in the order of the manifest, then unlisted ones.
        devices: the CPU, then the cards.
    """

    path: str
    model: str
    flavour: str
    tensorrt_version: str
    precision: Precision
    whole: bool
    files: tuple[FileReport, ...]
    devices: tuple[DeviceReport, ...]
