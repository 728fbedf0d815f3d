"""Put the table of all checks of `trt-int8 lint` into docs/lint.md.

python -m scripts.write_lint_table
"""

from __future__ import annotations

from pathlib import Path

from scripts.update_readme import replace_marked
from trt_int8.graph.lint.run import ALL_CHECKS
from trt_int8.spec.lint import SEVERITIES

PAGE = Path(__file__).parent.parent / "docs" / "lint.md"


def main() -> None:
    """Rewrite the marked part of the page."""
    text = replace_marked(PAGE.read_text(encoding="utf-8"), "checks", table())
    PAGE.write_text(text, encoding="utf-8")


def table() -> str:
    """One row per check, errors first."""
    rows = ["| check | severity | looks for | why | mend | --fix |", "|---|---|---|---|---|---|"]
    for severity in SEVERITIES:
        for info in ALL_CHECKS:
            if info.severity == severity:
                cells = (f"`{info.id}`", severity, info.what, info.reason, info.mend)
                line = " | ".join(cell.replace("|", "\\|") for cell in cells)
                rows.append(f"| {line} | {'yes' if info.fixable else ''} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
