"""Count the instructions of the CUDA kernels, for docs/measured/kernels.json and their README.

    python -m scripts.measure_kernels

Needs no GPU and times nothing. The PTX that ships runs in the tests' interpreter (dynamic warp
instructions by class, memory traffic), and ptxas assembles it (registers, machine instructions).
`--page` is the page with the table's marks.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scripts.kernel_subjects import SUBJECTS, Subject
from scripts.update_readme import replace_marked
from tests.kernels.layers import run_on
from tests.kernels.sass import SMS, sass_of, shipped_for
from trt_int8.files import write_whole
from trt_int8.plugins.kernel import KERNEL_SMS

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "trt_int8" / "plugins" / "README.md"
FIGURES = ROOT / "docs" / "measured" / "kernels.json"
# What a request to global memory is counted in.
SECTOR_BYTES = 32

Figures = dict[str, Any]


def main() -> None:
    """Count every subject on every architecture, then write figures and page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, default=FIGURES)
    parser.add_argument("--page", type=Path, default=PAGE)
    choices = parser.parse_args()
    figures: Figures = {}
    for name, make in SUBJECTS.items():
        sys.stderr.write(f"counts: {name}\n")
        figures[name] = {f"sm{sm}": measure(make(sm)) for sm in KERNEL_SMS}
        figures[name]["registers"] = registers(make)
    write_whole(choices.json, (json.dumps(figures, indent=1) + "\n").encode())
    if choices.page.is_file():
        text = choices.page.read_text(encoding="utf-8")
        for mark, body in tables(figures).items():
            text = replace_marked(text, mark, body)
        write_whole(choices.page, text.encode())


def measure(subject: Subject) -> Figures:
    """Run one subject in the interpreter and assemble it."""
    report = run_on("interpreter", subject.launch, subject.arguments)
    variant = subject.launch.variant
    sass = sass_of(variant, variant.sm)
    return {
        "unit": subject.unit,
        "units": subject.units,
        "ptx_instructions": report.total_instructions,
        "ptx_by_class": dict(report.instructions_by_class),
        "ptx_per_unit": round(report.total_instructions / subject.units, 2),
        "ptx_per_unit_without_moves": round(_without_moves(report.instructions) / subject.units, 2),
        "shared_wavefronts_per_request": _rounded(report.shared_wavefronts_per_request),
        "global_bytes": SECTOR_BYTES * sum(each.units for each in report.global_.values()),
        "tensor_bytes": sum(
            each.array.nbytes for each in subject.arguments if not isinstance(each, int)
        ),
        "global_sectors_per_request": _rounded(report.global_sectors_per_request),
        "shared_bytes": subject.launch.shared_bytes,
        "sass_opcodes": dict(_families(sass.opcodes).most_common()),
    }


def registers(make: Callable[[int], Subject]) -> dict[str, int]:
    """Registers of a thread by the card that its PTX is assembled for.

    Raises:
        AssertionError: the machine code spills.
    """
    found = {}
    for sm in SMS:
        sass = sass_of(make(shipped_for(sm)).launch.variant, sm)
        assert not sass.stack_bytes, f"{sass.stack_bytes} bytes of stack on sm_{sm}"
        found[f"sm{sm}"] = sass.registers
    return found


def tables(figures: Mapping[str, Figures]) -> dict[str, str]:
    """Bodies of the page's marked parts, by mark."""
    return {"kernels": _counts(figures), "kernel-registers": _registers(figures)}


def _counts(figures: Mapping[str, Figures]) -> str:
    lines = [
        "| sm_75 / sm_80 | per | PTX instructions | no moves | global bytes / least | shared bytes"
        " | wavefronts per request of shared memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, of in figures.items():
        both = [of[f"sm{sm}"] for sm in KERNEL_SMS]
        columns = [
            name,
            both[0]["unit"],
            " / ".join(f"{one['ptx_per_unit']:.1f}" for one in both),
            " / ".join(f"{one['ptx_per_unit_without_moves']:.1f}" for one in both),
            f"{both[0]['global_bytes'] / both[0]['tensor_bytes']:.2f}",
            f"{both[0]['shared_bytes']:,}",
            _wavefronts(both),
        ]
        lines.append(f"| {' | '.join(columns)} |")
    return "\n".join(lines)


def _registers(figures: Mapping[str, Figures]) -> str:
    lines = [
        f"| | {' | '.join(f'sm_{sm}' for sm in SMS)} |",
        "|---" * (len(SMS) + 1) + "|",
        *(
            f"| {name} | {' | '.join(str(of['registers'][f'sm{sm}']) for sm in SMS)} |"
            for name, of in figures.items()
        ),
    ]
    return "\n".join(lines)


def _wavefronts(both: Sequence[Figures]) -> str:
    """Of both architectures, or once where they are the same."""
    cells = [
        ", ".join(
            f"{name} {value:.2g}" for name, value in one["shared_wavefronts_per_request"].items()
        )
        for one in both
    ]
    return " / ".join(cell or "none" for cell in dict.fromkeys(cells))


def _without_moves(instructions: Mapping[str, int]) -> int:
    """Without copies between registers and address spaces, which ptxas leaves out or folds."""
    moves = ("mov", "cvta", "cvt.u32.u64", "cvt.u64.u32", "cvt.s64.s32")
    return sum(count for name, count in instructions.items() if not name.startswith(moves))


def _families(opcodes: Mapping[str, int]) -> Counter[str]:
    """Static machine instructions by the first part of their names; IMMA with its shape."""
    families: Counter[str] = Counter()
    for name, count in opcodes.items():
        parts = name.split(".")
        families[".".join(parts[:2]) if parts[0] == "IMMA" else parts[0]] += count
    return families


def _rounded(values: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in values.items()}


if __name__ == "__main__":
    main()
