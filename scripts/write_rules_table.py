"""Put the placement rules and the named recipes into docs/placement.md.

python -m scripts.write_rules_table
"""

from __future__ import annotations

from pathlib import Path

from scripts.update_readme import replace_marked
from trt_int8.spec.attention_limits import longest_int8_attention
from trt_int8.spec.ladder import LADDER
from trt_int8.spec.recipe import load_recipe
from trt_int8.spec.rules import RULES
from trt_int8.spec.targets import RTX_SMS

PAGE = Path(__file__).parent.parent / "docs" / "placement.md"
_HEAD_DIMS = (16, 32, 40, 48, 64, 80, 96, 128)


def main() -> None:
    """Rewrite the marked parts of the page."""
    text = PAGE.read_text(encoding="utf-8")
    for mark, body in tables().items():
        text = replace_marked(text, mark, body)
    PAGE.write_text(text, encoding="utf-8")


def tables() -> dict[str, str]:
    """Each table of the page, by its mark."""
    return {"recipes": _recipes(), "rules": _rules(), "limits": _limits()}


def _recipes() -> str:
    rows = ["| recipe | what becomes INT8 | know before |", "|---|---|---|"]
    for name, rung in LADDER.items():
        warnings = "; ".join(load_recipe(name).warnings)
        rows.append(f"| `{name}` | {rung.about} | {warnings} |")
    return "\n".join(rows)


def _rules() -> str:
    rows = ["| rule | what | why | source |", "|---|---|---|---|"]
    rows += [f"| `{key}` | {r.what} | {r.reason} | {r.source} |" for key, r in RULES.items()]
    return "\n".join(rows)


def _limits() -> str:
    rows = [f"| head size | {' | '.join(f'SM{sm}' for sm in RTX_SMS)} |"]
    rows.append("|---" * (len(RTX_SMS) + 1) + "|")
    for head_dim in _HEAD_DIMS:
        limits = [longest_int8_attention(head_dim, sm) for sm in RTX_SMS]
        rows.append(f"| {head_dim} | {' | '.join(str(n) if n else 'FP16' for n in limits)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
