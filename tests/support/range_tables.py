"""A small range table, and the file of one."""

from __future__ import annotations

from pathlib import Path

from trt_int8.calibrate import cache
from trt_int8.spec.ranges import RangeTable


def table(**changes: object) -> RangeTable:
    fields = {
        "method": "percentile:99.995",
        "samples": 33,
        "model_sha256": "ab",
        "data_sha256": "cd",
        "versions": {"trt_int8": "0.1.0"},
        "ranges": {"b.input": {"amax": 1.25, "peak": 2.5}, "a.input": {"amax": 3.0, "peak": 3.0}},
    }
    return RangeTable.model_validate(fields | changes)


def saved(folder: Path, text: str | None = None) -> Path:
    path = folder / "deep" / "ranges.json"
    cache.save(path, table())
    if text is not None:
        path.write_text(text, encoding="utf-8")
    return path
