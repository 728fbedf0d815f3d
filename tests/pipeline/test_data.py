"""Profiles, token data and cached ranges."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.pipeline.conftest import tiny_options
from trt_int8.calibrate import cache
from trt_int8.errors import ShapeError
from trt_int8.model.source import resolve_source
from trt_int8.pipeline.data import RangeKey, TokenData, cached_ranges, choose_profile
from trt_int8.pipeline.progress import Advance, SilentReporter
from trt_int8.spec.ranges import RangeTable, TensorRange
from trt_int8.spec.shapes import parse_shapes


def data(*ids: int) -> TokenData:
    return TokenData(1, [{"input_ids": np.array([ids], np.int64)}], [])


def measure(advance: Advance) -> dict[str, TensorRange]:
    return {"a": TensorRange(amax=2.0, peak=3.0)}


def ranges(folder: Path, token_data: TokenData, reporter: SilentReporter) -> RangeTable:
    key = RangeKey(resolve_source(str(folder / "bert")), token_data, ("a",))
    options = tiny_options(folder, cache=folder / "cache")
    return cached_ranges(key, options, reporter, measure)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text("{}", encoding="utf-8")
    return tmp_path


def test_a_folder_that_cannot_be_written_costs_the_cache_not_the_build(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, table: RangeTable) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(cache, "save", refuse)
    reporter = SilentReporter()
    assert ranges(folder, data(1, 2), reporter).ranges["a"].amax == 2.0
    assert reporter.notes == [f"ranges not kept in {folder / 'cache'} (Permission denied)"]


def test_other_token_ids_have_another_cache_file(folder: Path) -> None:
    for ids in ((1, 2), (1, 3), (1, 2)):
        ranges(folder, data(*ids), SilentReporter())
    assert len(list((folder / "cache").iterdir())) == 2


def test_token_ids_of_another_shape_have_another_hash() -> None:
    flat = TokenData(1, [{"input_ids": np.arange(6).reshape(1, 6)}], [])
    folded = TokenData(1, [{"input_ids": np.arange(6).reshape(2, 3)}], [])
    assert flat.sha256() != folded.sha256()


def test_the_default_profile_is_cut_to_the_model_an_asked_one_is_refused() -> None:
    assert choose_profile(None, 100).dims["seq"].max == 100
    with pytest.raises(ShapeError, match="sequences of 384 tokens; wanted at most 100"):
        choose_profile(parse_shapes("seq=16:128:384"), 100)
