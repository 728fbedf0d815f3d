"""The figures of scripts.kernel_versions as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scripts.kernel_ladder.attention import HEAD_DIM, KEYS_PER_TILE

Figures = Mapping[str, Any]

_SMS = ("sm80", "sm75")
# IMMA per m16n8k32 product: one, or four m8n8k16.
_IMMA = {"sm80": 1, "sm75": 4}
# A warp's tile: 32 queries, 64 keys; each thread has 4 rows of it.
_SCORES = 32 * KEYS_PER_TILE // 32
_FRAGMENT_WORDS = HEAD_DIM // 16 * 2  # B fragments of V per 32 keys
_PRODUCTS = 2 * (KEYS_PER_TILE // 32) * (4 * HEAD_DIM // 32 + HEAD_DIM // 8)
# Least number by opcode family on any SM of a thread's part of a tile, and why.
_FLOOR: dict[str, tuple[int, str]] = {
    "MUFU": (_SCORES, "2^x of each score"),
    "FFMA": (2 * _SCORES, "a score scaled and shifted; p to fixed point"),
    "FMNMX": (
        _SCORES - 4,
        "the largest score of each of 4 rows (from sm_100 on three at once: half)",
    ),
    "PRMT": (
        3 * _SCORES // 4 + 2 * 2 * _FRAGMENT_WORDS,
        "four words of P to one; V's even and odd elements apart",
    ),
    "IADD3": (_SCORES // 2, "two words of the row sum at a time"),
    "LDSM": (KEYS_PER_TILE * HEAD_DIM // 512 * 2, "K and V once each, 512 bytes at a time"),
}
_MIX = {
    "float32: FADD, FMUL, FFMA, FMNMX": ("FADD", "FMUL", "FFMA", "FMNMX"),
    "from half: HADD2": ("HADD2",),
    "to INT8, from INT8: F2I, I2F": ("F2I", "I2F", "I2FP"),
    "PRMT": ("PRMT",),
    "SHFL": ("SHFL",),
    "global memory: LDG, STG": ("LDG", "STG"),
    "shared memory: LDS, STS": ("LDS", "STS"),
}


def tables(figures: Figures) -> dict[str, str]:
    """Bodies of the page's marked parts, by mark."""
    return {
        "attention-versions": _attention(figures["attention"]),
        "attention-tile": _tile(_shipped(figures["attention"])),
        "attention-lowering": _lowering(figures["attention"]["lowering"]),
        "layernorm-versions": _layernorm(figures),
        "gelu-versions": _gelu(figures),
        "rows-mix": _mix(figures),
    }


def _attention(ladder: Figures) -> str:
    lines = [
        "| version | per product, sm_80 / sm_75 | against shipped | more where e is lowered "
        "| registers | error / plain | lone key off by | kept |",
        "|---|---|---|---|---|---|---|---|",
    ]
    shipped = _shipped(ladder)
    for name, rung in ladder["rungs"].items():
        columns = [
            name,
            _both(rung, lambda one, sm: f"{_per_product(one, sm):.2f}"),
            _both(
                rung,
                lambda one, sm: f"{_per_product(one, sm) - _per_product(shipped[sm], sm):+.2f}",
            ),
            _both(rung, lambda one, sm: f"{_per_product(one, sm, 'lowering'):.2f}"),
            _both(rung, lambda one, _: _registers(one)),
            f"{rung['error_to_plain']:.2f}" if "error_to_plain" in rung else "same bits",
            f"{rung['lone_key_error']:.2%}" if "lone_key_error" in rung else "same bits",
            rung["verdict"],
        ]
        lines.append(_row(columns))
    return "\n".join(lines)


def _tile(rung: Figures) -> str:
    tiles = {sm: rung[sm]["tile"]["always"] for sm in _SMS}
    lines = ["| | sm_80 | sm_75 | floor | what the floor is |", "|---|---|---|---|---|"]
    floors = {sm: _PRODUCTS * _IMMA[sm] for sm in _SMS}
    made = [tiles[sm].get("IMMA", 0) for sm in _SMS]
    least = " / ".join(str(floors[sm]) for sm in _SMS)
    lines.append(_row(["IMMA", *made, least, f"{_PRODUCTS} products of m16n8k32"]))
    for family, (floor, why) in _FLOOR.items():
        lines.append(_row([family, *(tiles[sm].get(family, 0) for sm in _SMS), floor, why]))
    known = {"IMMA", *_FLOOR}
    rest = [sum(n for name, n in tiles[sm].items() if name not in known) for sm in _SMS]
    lines.append(_row(["copies, addresses, loop, vote", *rest, 0, ""]))
    sums = [sum(tiles[sm].values()) for sm in _SMS]
    floor_sums = [floors[sm] + sum(floor for floor, _ in _FLOOR.values()) for sm in _SMS]
    least = " / ".join(map(str, floor_sums))
    lines.append(_row(["**sum**", *(f"**{total}**" for total in sums), least, ""]))
    each = [f"**{total / _PRODUCTS:.2f}**" for total in sums]
    least = " / ".join(f"{total / _PRODUCTS:.2f}" for total in floor_sums)
    lines.append(_row(["**per product**", *each, least, ""]))
    for part, words in (
        ("lowering", "more, where a row of the warp lowers e"),
        ("hiding", "more, in the tile with the end of the keys or the diagonal"),
    ):
        lines.append(_row([words, *(_sum(rung[sm], part) for sm in _SMS), "", ""]))
    return "\n".join(lines)


def _lowering(shares: Mapping[str, float]) -> str:
    percents = [f"{share:.0%}" for share in shares.values()]
    lines = [
        _row(["keys", *shares]),
        "|---" * (len(shares) + 1) + "|",
        _row(["tiles in which a warp lowers some e", *percents]),
    ]
    return "\n".join(lines)


def _layernorm(figures: Figures) -> str:
    lines = [
        "| version | memory instructions per row | bytes of sectors per element "
        "| PTX instructions per row | machine instructions, sm_75 / sm_80 | registers | kept |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, title in (
        ("layernorm", "H = 768, half, bias and residual"),
        ("layernorm_short", "H = 384, half, bias and residual"),
        ("layernorm_int8", "H = 1024, int8 x and residual"),
    ):
        ladder = figures[key]
        lines.append(_row([f"*{title}*", *[""] * 6]))
        for name, rung in ladder["rungs"].items():
            one = rung["sm75"]
            columns = [
                name,
                f"{one['memory_instructions'] / ladder['rows']:.0f}",
                f"{one['sector_bytes'] / ladder['elements']:.1f}",
                f"{one['ptx_instructions'] / ladder['rows']:.0f}",
                _both(
                    rung, lambda each, _: str(each.get("sass_instructions", "loops")), _SMS[::-1]
                ),
                _both(rung, lambda each, _: _registers(each), _SMS[::-1]),
                rung["verdict"],
            ]
            lines.append(_row(columns))
    return "\n".join(lines)


def _gelu(figures: Figures) -> str:
    lines = [
        "| version | machine instructions per element, sm_75 / sm_80 "
        "| bytes of sectors per element | memory instructions per row | registers | kept |",
        "|---|---|---|---|---|---|",
    ]
    for key, title in (("gelu", "half, bias"), ("gelu_table", "int8, no bias")):
        ladder = figures[key]
        lines.append(_row([f"*{title}*", *[""] * 5]))
        for name, rung in ladder["rungs"].items():
            one = rung["sm75"]
            columns = [
                name,
                _both(
                    rung,
                    lambda each, _: _per_element(each, ladder["elements"]),  # noqa: B023
                    _SMS[::-1],
                ),
                f"{one['sector_bytes'] / ladder['elements']:.1f}",
                f"{one['memory_instructions'] / ladder['rows']:.0f}",
                _both(rung, lambda each, _: _registers(each), _SMS[::-1]),
                rung["verdict"],
            ]
            lines.append(_row(columns))
    return "\n".join(lines)


def _per_element(one: Figures, elements: int) -> str:
    return f"{one['sass_instructions'] * one['threads'] / elements:.1f}"


def _mix(figures: Figures) -> str:
    kernels = {
        "skip_layernorm_quant, H = 768, 24 elements a lane": "layernorm",
        "bias_gelu_quant, 8 elements": "gelu",
        "the same with table, 16 elements": "gelu_table",
    }
    shipped = [_shipped(figures[name]) for name in kernels.values()]
    lines = [_row(["sm_75 / sm_80", *kernels]), "|---" * (len(kernels) + 1) + "|"]
    for title, families in _MIX.items():
        cells = [
            _both(one, lambda each, _: str(_of(each, families)), _SMS[::-1])  # noqa: B023
            for one in shipped
        ]
        lines.append(_row([title, *cells]))
    known = [family for families in _MIX.values() for family in families]
    rest = [
        _both(one, lambda each, _: str(each["sass_instructions"] - _of(each, known)), _SMS[::-1])
        for one in shipped
    ]
    lines.append(_row(["integers, moves, control", *rest]))
    sums = [
        _both(one, lambda each, _: str(each["sass_instructions"]), _SMS[::-1]) for one in shipped
    ]
    lines.append(_row(["**sum**", *sums]))
    return "\n".join(lines)


def _of(one: Figures, families: Sequence[str]) -> int:
    return sum(one["sass"].get(family, 0) for family in families)


def _shipped(ladder: Figures) -> Figures:
    rung: Figures = next(rung for name, rung in ladder["rungs"].items() if "shipped" in name)
    return rung


def _both(rung: Figures, cell: Any, sms: Sequence[str] = _SMS) -> str:
    return " / ".join(cell(rung[sm], sm) for sm in sms)


def _static(one: Figures, _: str) -> str:
    return str(one.get("sass_instructions", "loops"))


def _registers(one: Figures) -> str:
    spill = f" and {one['stack_bytes']} B of stack" if one["stack_bytes"] else ""
    return f"{one['registers']}{spill}"


def _sum(one: Figures, part: str) -> int:
    return sum(one["tile"][part].values())


def _per_product(one: Figures, sm: str, part: str = "always") -> float:
    """Machine instructions of a tile per m16n8k32 product."""
    return _sum(one, part) * _IMMA[sm] / int(one["tile"]["always"]["IMMA"])


def _row(cells: Sequence[Any]) -> str:
    return f"| {' | '.join(str(cell) for cell in cells)} |"
