"""Write files so that they appear whole or not at all."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any


def write_whole(path: Path, data: Any) -> None:
    """Write `data` (anything with the buffer protocol) to `path` in one step.

    Raises:
        OSError: it cannot be written; an old file stays as it was, nothing is left beside it.
    """
    # Several workers may write one file at a time: each needs a name of its own.
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
