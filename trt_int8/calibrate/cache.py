"""Range tables on disk. The format is described byte by byte in calib_cache/README.md."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from pydantic import ValidationError

from trt_int8.errors import CalibrationError, RangeError
from trt_int8.files import write_whole
from trt_int8.spec.ranges import RangeTable

_REMEDY = "delete the file and calibrate again"


def cache_path(folder: Path, table: RangeTable) -> Path:
    """Where the ranges of this model, these texts and this method are kept."""
    key = "\n".join(
        [
            table.model_sha256,
            table.data_sha256,
            table.method,
            str(table.samples),
            *sorted(table.ranges),
        ]
    )
    return folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def save(path: Path, table: RangeTable) -> None:
    """Write the table; whole or not at all, even if several builds do so at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, table.to_json().encode())


def load(path: Path, wanted: RangeTable) -> RangeTable | None:
    """Read a table made from the same model, texts, method and sites as `wanted`.

    Args:
        path: the file.
        wanted: what is needed; its numbers are ignored.

    Returns:
        The stored table; None if there is no file.

    Raises:
        CalibrationError: the file is damaged, not in the canonical form, or of something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise _refuse(path, f"cannot be read ({error})") from error
    try:
        table = RangeTable.model_validate_json(text)
    except (ValidationError, json.JSONDecodeError) as error:
        raise _refuse(path, "is damaged") from error
    except RangeError as error:
        raise _refuse(path, f"is damaged ({error.came})") from error
    if table.to_json() != text:
        raise _refuse(path, "is not in the canonical form (edited, unsorted or duplicate keys)")
    for field in ("format", "model_sha256", "data_sha256", "method", "samples"):
        if getattr(table, field) != getattr(wanted, field):
            raise _refuse(path, f"is of another {field}")
    if set(table.ranges) != set(wanted.ranges):
        raise _refuse(path, "lists other tensors")
    return table


def _refuse(path: Path, why: str) -> CalibrationError:
    return CalibrationError(
        f"calibration cache {str(path)!r} {why}",
        wanted="ranges of this model and data",
        todo=_REMEDY,
    )
