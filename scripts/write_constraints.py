"""Write constraints.txt: the exact versions that .venv holds, for CI and the README's commands."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

# Tools of the virtual environment itself, and this project.
_LEFT_OUT = {"pip", "setuptools", "trt-int8", "wheel"}
_HEADER = "# Made by `make constraints`. Pins what CI, `make demo` and `make test` install.\n"


def main() -> None:
    """Read the installed versions and write the file."""
    lines = set()
    for found in importlib.metadata.distributions():
        name = found.metadata["Name"].lower().replace("_", "-")
        if name not in _LEFT_OUT:
            version = found.version.split("+")[0]
            requires = str(found.metadata.json.get("requires_python", ""))
            newer = any(f">={v}" in requires.replace(" ", "") for v in ("3.11", "3.12"))
            lines.add(f"{name}=={version}" + ("; python_version >= '3.11'" if newer else ""))
    Path("constraints.txt").write_text(_HEADER + "\n".join(sorted(lines)) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
