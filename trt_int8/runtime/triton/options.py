"""What the user asks of a model repository."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final, Literal, cast, get_args

from trt_int8.errors import DeviceError, RequestError
from trt_int8.spec.build import Precision

ServingBackend = Literal["tensorrt", "onnxruntime", "openvino", "python"]
Kind = Literal["cuda", "cpu"]
BACKENDS: Final[dict[Kind, tuple[ServingBackend, ...]]] = {
    "cuda": ("tensorrt", "onnxruntime"),
    "cpu": ("python", "onnxruntime", "openvino"),
}
_DEVICE = re.compile(r"cpu|cuda(?::([0-9]{1,3}(?:,[0-9]{1,3})*))?")
# Triton's clients put the name into an address: /v2/models/NAME.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
# Files beside the models' folders.
_TAKEN = ("README.md", "run.sh", "Dockerfile", "trt_int8-triton.json")
_MOST_BATCH = 2**31 - 1


@dataclass(frozen=True)
class TritonOptions:
    """Settings of `export_triton`.

    Attributes:
        device: `cuda`, `cuda:0,1` (instances on these cards only) or `cpu`.
        backend: Triton's backend for the network; None for the first of `BACKENDS`.
        name: the model's name in Triton; None for the name in the bundle's manifest.
        precision: which of the bundle's models.
        max_batch: largest batch; None for the largest that the profiles hold.
        instances: copies of the model per card, or on the CPU.
        queue_delay_us: how long a request may wait for others, in microseconds.
        sm: compute capability times ten of the only engine to take; None for all.
        text: add a tokenizer and an ensemble that takes strings.
        force: replace a repository that this package wrote.
        link: hard links in place of copies of the large files.
    """

    device: str = "cuda"
    backend: ServingBackend | None = None
    name: str | None = None
    precision: Precision = "int8"
    max_batch: int | None = None
    instances: int = 1
    queue_delay_us: int = 100
    sm: int | None = None
    text: bool = False
    force: bool = False
    link: bool = False
    kind: Kind = field(init=False)
    gpus: tuple[int, ...] = field(init=False)
    serving_backend: ServingBackend = field(init=False)

    def __post_init__(self) -> None:
        """Check, and read `device` into `kind` and `gpus`.

        Raises:
            DeviceError: the device is unknown, or has no such backend.
            RequestError: a name or a number is out of its range.
        """
        match = _DEVICE.fullmatch(self.device)
        if match is None:
            raise DeviceError(
                f"--device {self.device!r}",
                wanted="cuda, cuda:0 or cuda:0,1 with the numbers of cards, or cpu",
                todo="write it so",
            )
        kind = cast(Kind, self.device.split(":")[0])
        object.__setattr__(self, "kind", kind)
        object.__setattr__(self, "gpus", tuple(int(n) for n in (match[1] or "").split(",") if n))
        object.__setattr__(self, "serving_backend", self.backend or BACKENDS[kind][0])
        if self.serving_backend not in BACKENDS[kind]:
            raise DeviceError(
                f"--backend {self.serving_backend} with --device {self.device}",
                wanted=f"{' or '.join(BACKENDS[kind])} on {kind}",
                todo="choose one of those, or the other device",
            )
        self._check_values()

    def _check_values(self) -> None:
        if self.name is not None and (self.name in _TAKEN or not _NAME.fullmatch(self.name)):
            raise RequestError(
                f"--name {self.name!r}",
                wanted="letters, digits and _ . - of ASCII, at most 128, and none of the files"
                f" {', '.join(_TAKEN)}",
                todo="choose another name",
            )
        if self.precision not in get_args(Precision):
            raise RequestError(
                f"--precision {self.precision!r}",
                wanted=" or ".join(get_args(Precision)),
                todo="choose one of those",
            )
        limits = {"max-batch": self.max_batch, "instances": self.instances}
        for option, value in limits.items():
            if value is not None and not 1 <= value <= _MOST_BATCH:
                raise RequestError(f"--{option} {value}", wanted="1 or more", todo="correct it")
        if not 0 <= self.queue_delay_us <= _MOST_BATCH:
            raise RequestError(
                f"--queue-delay-us {self.queue_delay_us}",
                wanted="0 or more microseconds",
                todo="correct it",
            )


def model_name(asked: str | None, of_bundle: str) -> str:
    """The name in Triton: what was asked for, else the bundle's with odd characters as `_`."""
    if asked is not None:
        return asked
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", of_bundle).lstrip(".-")[:128]
    return f"{name}_" if name in _TAKEN else name or "model"
