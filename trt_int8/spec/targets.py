"""GPU targets: card names and compute capabilities."""

from __future__ import annotations

import difflib

from trt_int8.errors import TargetError
from trt_int8.spec.base import Frozen

# Compute capability of common cards (NVIDIA, "CUDA GPUs" list).
SM_OF_CARD = {
    "t4": 75,
    "rtx20": 75,
    "a100": 80,
    "a30": 80,
    "a10": 86,
    "a40": 86,
    "rtx30": 86,
    "l4": 89,
    "l40": 89,
    "rtx40": 89,
    "h100": 90,
    "h200": 90,
    "b200": 100,
    "rtx50": 120,
    "gb10": 121,
}

# TensorRT-RTX 1.7 builds for these (`ComputeCapability` members of its Python package).
RTX_SMS = (75, 80, 86, 89, 120, 121)


class Target(Frozen):
    """A GPU to build for.

    Attributes:
        name: what the user wrote, lower case ("t4", "sm86").
        sm: compute capability times ten (75 is 7.5).
    """

    name: str
    sm: int


def target_folder(sm: int | None) -> str:
    """Name of a target in bundles and reports: "sm75"; "local" for the card of the machine."""
    return "local" if sm is None else f"sm{sm}"


def parse_targets(text: str) -> tuple[Target, ...]:
    """Read a comma-separated list such as "t4,a100,sm86"; targets of one SM are listed once.

    Raises:
        TargetError: a name is not known.
    """
    targets: dict[int, Target] = {}
    for raw in text.split(","):
        name = raw.strip().lower()
        if name:
            target = Target(name=name, sm=_sm_of(name))
            targets.setdefault(target.sm, target)
    if not targets:
        raise TargetError(
            f"--target is {text!r}", wanted="at least one card or SM", todo="pass --target t4,a100"
        )
    return tuple(targets.values())


def _sm_of(name: str) -> int:
    if name in SM_OF_CARD:
        return SM_OF_CARD[name]
    digits = name.removeprefix("sm").replace(".", "").replace("_", "")
    known = {str(sm): sm for sm in sorted(SM_OF_CARD.values())}
    if digits in known:
        return known[digits]
    close = difflib.get_close_matches(name, SM_OF_CARD, n=1)
    raise TargetError(
        f"unknown target {name!r}",
        wanted=f"one of {', '.join(SM_OF_CARD)} or sm{'/'.join(known)}",
        todo=f"did you mean {close[0]!r}?" if close else "pass, for example, --target t4,a100",
    )


def check_rtx_targets(targets: tuple[Target, ...]) -> None:
    """Refuse targets that TensorRT-RTX cannot build for.

    Raises:
        TargetError: naming the target and the flavour that serves it.
    """
    for target in targets:
        if target.sm not in RTX_SMS:
            raise TargetError(
                f"target {target.name!r} is SM{target.sm}, which TensorRT-RTX does not have",
                wanted=f"one of SM {', '.join(map(str, RTX_SMS))}",
                todo=f"on a machine with an SM{target.sm} card run: "
                "pip install 'trt-int8[tensorrt]' and pass --flavour tensorrt",
            )
