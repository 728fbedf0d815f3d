"""A data set of 23 rows, and runs over it with the fake model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import contents
from tests.support.fake_scorer import FakeOpener, Watcher
from trt_int8.runtime.score.run import ScoreOptions, Summary, run_score

TEXTS = [f"text {'long ' * (n % 5)}{n}" for n in range(23)]
TEXTS[7] = TEXTS[19] = "poison"


def run(options: ScoreOptions, watch: Watcher | None = None, **fake: Any) -> Summary:
    return run_score(options, watch or Watcher(), opener=FakeOpener(**fake))


def results(out: Path) -> dict[str, bytes]:
    """Everything but the journal and the times in it."""
    found = contents(out)
    del found["parts.jsonl"]
    index = json.loads(found.pop("scored.json"))
    for part in index["parts"]:
        del part["seconds"]
    return {**found, "index": json.dumps(index).encode()}


def stop_after(options: ScoreOptions, parts: int, error: BaseException) -> None:
    """A run that ends with `error` once so many parts are finished."""

    class Stopper(Watcher):
        def advance(self, record: Any) -> None:
            super().advance(record)
            if len(self.records) == parts:
                raise error

    with pytest.raises(type(error)):
        run_score(options, Stopper(), opener=FakeOpener())
