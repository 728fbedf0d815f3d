"""Where a session runs: what the user asks for, and what `auto` means."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from trt_int8.errors import BundleError, DeviceError
from trt_int8.runtime.engine_fit import InstalledVersion, fitting_engine, installed_version
from trt_int8.runtime.gpu.cards import Card, cards
from trt_int8.spec.build import Precision
from trt_int8.spec.manifest import Manifest

AUTO = "auto"
_CUDA = re.compile(r"cuda(?::([0-9]{1,4}))?")


@dataclass(frozen=True)
class Device:
    """Where a session runs.

    Attributes:
        kind: `cpu` or `cuda`.
        index: number of the card; 0 for the CPU.
        reason: why `auto` chose it; empty if it was asked for. Does not count in comparisons.
    """

    kind: Literal["cpu", "cuda"]
    index: int = 0
    reason: str = field(default="", compare=False)

    def __str__(self) -> str:
        """As it is written: `cpu`, `cuda:0`."""
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"


def parse_device(text: str) -> Device | None:
    """Read `auto` (None), `cpu`, `cuda` (the first card) or `cuda:N`.

    Raises:
        DeviceError: it is none of these.
    """
    name = text.strip().lower()
    if name == AUTO:
        return None
    if name == "cpu":
        return Device("cpu")
    found = _CUDA.fullmatch(name)
    if found is None:
        raise DeviceError(
            f"unknown device {text!r}",
            wanted="auto, cpu, cuda or cuda:N",
            todo="correct it, for example cuda:0",
        )
    return Device("cuda", int(found[1] or 0))


def choose_device(
    text: str,
    manifest: Manifest,
    probe: Callable[[], tuple[Card, ...]] = cards,
    precision: Precision = "int8",
    installed: InstalledVersion = installed_version,
) -> Device:
    """The device that a request for one means.

    `auto` is the first card that an engine of the bundle fits, else the CPU. Damage to the bundle
    is no reason to run elsewhere: it is found when the chosen device's files are checked. What was
    asked for by name is taken as it is; whether it can be had shows there, too.

    Args:
        text: `auto`, `cpu`, `cuda` or `cuda:N`.
        manifest: of the bundle.
        probe: gives the cards of this machine; asked for `auto` only.
        precision: of the engine that is to run.
        installed: gives the version of the TensorRT at hand.

    Raises:
        DeviceError: `text` is no device.
    """
    asked = parse_device(text)
    if asked is not None:
        return asked
    reasons = []
    for card in probe():
        try:
            engine = fitting_engine(manifest, card, precision, installed)
        except BundleError as error:
            reasons.append(str(error))
            continue
        why = f"{engine.path} fits card cuda:{card.index} ({card.name}, SM{card.sm})"
        return Device("cuda", card.index, why)
    none = "there is no NVIDIA card, or no driver, or no cuda-python (cuda:0 tells which)"
    return Device("cpu", reason=f"runs on the CPU: {' '.join(reasons) or none}")
