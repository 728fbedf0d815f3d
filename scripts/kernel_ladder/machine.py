"""Machine code as nvdisasm prints it: instructions, and what the main loop does once around.

.L_x_7:
/*0c50*/                   BSSY B0, `(.L_x_1) ;
/*0c90*/               @P0 BRA `(.L_x_2) ;
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

_LINE = re.compile(
    r"^\s*(?:(?P<label>\.L\w+):|/\*[0-9a-f]{4,}\*/\s+\{?\s*(?P<guard>@!?U?P\w+\s+)?"
    r"(?P<opcode>[A-Z][A-Z0-9_.]*)(?P<rest>[^;]*))"
)
_TARGET = re.compile(r"`\((\.L\w+)\)")
_PRODUCT = "IMMA"


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        opcode: with its modifiers, "IMMA.16832.S8.S8".
        guarded: whether a predicate may switch it off.
        target: place in the list that it branches to; -1 if none in it.
    """

    opcode: str
    guarded: bool
    target: int = -1

    @property
    def family(self) -> str:
        """Opcode without modifiers."""
        return self.opcode.split(".")[0]


@dataclass(frozen=True)
class MainLoop:
    """Instructions of one turn of the loop with the most products, by opcode family.

    Attributes:
        always: what a warp executes on each turn (a copy of the next tile included).
        lowering: what it executes more where it lowers an exponent: the region with shuffles.
        hiding: what it executes more where it hides keys: the other optional region.
    """

    always: Counter[str]
    lowering: Counter[str]
    hiding: Counter[str]


def instructions(listing: str) -> list[Instruction]:
    """Instructions in order; NOP and what follows the last EXIT by address included."""
    found: list[tuple[str, bool, str]] = []
    labels: dict[str, int] = {}
    for line in listing.splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        if match["label"]:
            labels[match["label"]] = len(found)
        else:
            target = _TARGET.search(match["rest"])
            name = target[1] if target and match["opcode"].startswith("BRA") else ""
            found.append((match["opcode"], bool(match["guard"]), name))
    return [Instruction(code, guard, labels.get(name, -1)) for code, guard, name in found]


def has_loop(code: Sequence[Instruction]) -> bool:
    """Whether something branches backwards; the endless loop after the code is none."""
    return any(0 <= one.target < place for place, one in enumerate(code))


def main_loop(code: Sequence[Instruction]) -> MainLoop:
    """What one turn of the loop with the most products executes.

    A region that a branch may skip, that has no product and that copies nothing from global memory
    is optional. The last turn has no copy; all other ones have it.

    Raises:
        ValueError: there is no loop with a product, or there are not the two optional regions.
    """
    loops = [(one.target, place) for place, one in enumerate(code) if 0 <= one.target < place]
    first, last = max(loops, key=lambda loop: _products(code, *loop), default=(0, 0))
    if not _products(code, first, last):
        raise ValueError("no loop with matrix products")
    optional = [
        (place + 1, one.target)
        for place, one in enumerate(code[first:last], first)
        if one.guarded and place < one.target <= last and _is_optional(code[place : one.target])
    ]
    lowering = [_families(code[a:b]) for a, b in optional if _has(code[a:b], "SHFL")]
    hiding = [_families(code[a:b]) for a, b in optional if not _has(code[a:b], "SHFL")]
    if (len(lowering), len(hiding)) != (1, 1):
        raise ValueError(f"{len(lowering)} regions with shuffles and {len(hiding)} without")
    always = _families(code[first : last + 1])
    always -= lowering[0] + hiding[0]
    return MainLoop(always, lowering[0], hiding[0])


def _products(code: Sequence[Instruction], first: int, last: int) -> int:
    return sum(one.family == _PRODUCT for one in code[first : last + 1])


def _is_optional(region: Sequence[Instruction]) -> bool:
    return not any(_has(region, name) for name in (_PRODUCT, "LDG", "LDGSTS"))


def _has(region: Sequence[Instruction], family: str) -> bool:
    return any(one.family == family for one in region)


def _families(region: Sequence[Instruction]) -> Counter[str]:
    return Counter(one.family for one in region if one.family != "NOP")
