"""Range tables on disk. The format is described byte by byte in calib_cache/README.md."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trt_int8.calibrate.tensorrt_text import PREFIX
from trt_int8.errors import CalibrationError, RangeError
from trt_int8.files import write_whole
from trt_int8.spec.ranges import FORMAT, RangeTable

_FORMAT_NAME = FORMAT.rpartition("-")[0] + "-"
_OLDER_FORMATS = ("trt_int8-ranges-1", "trt_int8-ranges-2")
_SOURCE_FIELDS = ("model_sha256", "data_sha256", "method", "samples", "versions", "smooth")


def cache_path(folder: Path, table: RangeTable, groups: Iterable[Iterable[str]] = ()) -> Path:
    """Where the ranges of this model, these texts, this method and these versions are kept.

    Args:
        folder: of the cache.
        table: what they are made from; its numbers are ignored.
        groups: tensors that may be smoothed, as a recipe with the same tensors may bar some.
    """
    made_from = [getattr(table, field) for field in ("format", *_SOURCE_FIELDS)]
    names = [sorted(table.ranges), sorted(sorted(group) for group in groups)]
    key = json.dumps([*made_from, *names], sort_keys=True, separators=(",", ":"))
    return folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"


def save(path: Path, table: RangeTable) -> None:
    """Write the table; whole or not at all, even if several builds do so at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, table.to_json().encode())


def load(path: Path, wanted: RangeTable) -> RangeTable | None:
    """Read a table made from the same model, texts, method, versions and sites as `wanted`.

    Args:
        path: the file.
        wanted: what is needed; its numbers are ignored.

    Returns:
        The stored table; None if there is no file.

    Raises:
        CalibrationError: `read` refuses the file, or it is of something else.
    """
    if not path.exists():
        return None
    table = read(path)
    for field in _SOURCE_FIELDS:
        stored, needed = getattr(table, field), getattr(wanted, field)
        if stored != needed:
            raise _stale(path, f"is of another {field} ({stored!r}, not {needed!r})")
    for name in sorted(set(table.ranges) ^ set(wanted.ranges)):
        verb = "lists" if name in table.ranges else "lacks"
        raise _stale(path, f"lists other tensors (it {verb} {name!r})")
    return table


def read(path: Path) -> RangeTable:
    """Read a table whatever it was made from.

    Raises:
        CalibrationError: there is no such file, or it is not byte for byte what `save` wrote.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise CalibrationError(
            f"no calibration cache {str(path)!r}", wanted="a file", todo="check the path"
        ) from error
    except OSError as error:
        raise _refuse(path, f"cannot be read ({error.strerror})") from error
    text = _text(path, data)
    fields = _fields(path, text)
    table = _table(path, fields)
    if table.to_json() != text:
        unsorted = json.dumps(fields) != json.dumps(fields, sort_keys=True)
        why = "has unsorted keys" if unsorted else "has other spacing or another spelling of values"
        raise _refuse(path, f"was edited: it {why}")
    return table


def _text(path: Path, data: bytes) -> str:
    if not data:
        raise _refuse(path, "is empty")
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        found = data[error.start]
        raise _refuse(path, f"is not UTF-8 text (byte {error.start} is 0x{found:02x})") from error
    if text.startswith(PREFIX):
        raise _refuse(
            path,
            "is a TensorRT calibration cache, not JSON",
            todo=f"run: trt-int8 calib convert {str(path)!r} ranges.json",
        )
    return text


def _fields(path: Path, text: str) -> dict[str, Any]:
    """The JSON object of a table of this format, each key once."""
    repeated: list[str] = []

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        repeated.extend(name for name in names if names.count(name) > 1)
        return dict(pairs)

    try:
        fields = json.loads(text, object_pairs_hook=collect)
    except (ValueError, RecursionError) as error:
        at_its_end = getattr(error, "pos", 0) >= len(text.rstrip())
        if text.startswith("{") and (at_its_end or not text.endswith("}\n")):
            raise _refuse(path, f"is cut off after {len(text)} characters") from error
        raise _refuse(path, f"is not JSON ({error})") from error
    found = fields.get("format") if isinstance(fields, dict) else None
    if not (isinstance(found, str) and found.startswith(_FORMAT_NAME)):
        raise _refuse(path, "is JSON of something else", todo="check the path")
    if found != FORMAT:
        age = "older" if found in _OLDER_FORMATS else "unknown"
        raise _refuse(path, f"is of the {age} format {found!r}")
    if not text.endswith("\n"):
        raise _refuse(path, "is cut off: there is no newline at its end")
    if repeated:
        raise _refuse(path, f"was edited: it names the key {repeated[0]!r} twice")
    return dict(fields)


def _table(path: Path, fields: dict[str, Any]) -> RangeTable:
    missing = sorted({*RangeTable.model_fields, "sha256"} - set(fields))
    if missing:
        raise _refuse(path, f"lacks the field {missing[0]!r}")
    try:
        return RangeTable.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        # Below `smoothing`, pydantic names the kinds that alpha may be of too.
        place = first["loc"][:2] if first["loc"][0] == "smoothing" else first["loc"]
        where = f"field {str(place[-1])!r}"
        if first["loc"][0] == "ranges" and len(first["loc"]) > 2:
            where += f" of tensor {first['loc'][1]!r}"
        if first["type"] == "missing":
            raise _refuse(path, f"lacks the {where}") from error
        if first["type"] == "extra_forbidden":
            raise _refuse(path, f"has the unknown {where}") from error
        raise _refuse(path, f"has a wrong {where} ({first['msg']})") from error
    except RangeError as error:
        raise _refuse(path, f"cannot be used: {error.came}") from error


def _refuse(
    path: Path, why: str, *, todo: str = "calibrate again, or pass another file"
) -> CalibrationError:
    return CalibrationError(
        f"calibration cache {str(path)!r} {why}",
        wanted=f"a whole and unedited file of format {FORMAT}",
        todo=todo,
    )


def _stale(path: Path, why: str) -> CalibrationError:
    return CalibrationError(
        f"calibration cache {str(path)!r} {why}",
        wanted="ranges of this model and data",
        todo="delete the file and calibrate again",
    )
