"""Where the ranges of a build come from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.range_models import halver_onnx, ids
from trt_int8 import __version__
from trt_int8.calibrate import cache
from trt_int8.calibrate.collector import NumberedBatches, Statistics
from trt_int8.calibrate.onnx_statistics import OnnxTensors
from trt_int8.calibrate.statistics import Needs
from trt_int8.calibrate.tensorrt_cache import from_ranges
from trt_int8.errors import CalibrationError, RangeError
from trt_int8.pipeline import ranges
from trt_int8.pipeline.data import CalibrationData
from trt_int8.pipeline.options import BuildOptions
from trt_int8.pipeline.progress import SilentReporter
from trt_int8.pipeline.ranges import choose_ranges, collect, find_all, read_ranges
from trt_int8.spec.methods import parse_method
from trt_int8.spec.ranges import AffineRange, RangeTable, TensorRange
from trt_int8.spec.recipe import CalibrationSettings, Recipe

SITES = ("half", "shifted")
BATCHES = [ids([4, 30], [8, 2]), ids([1, 3, 5])]
EVERYTHING = Needs(histogram=True, rows=True)


class Halver:
    """An entrance with two tensors, `half` up to 15 and `shifted` down to -9.5."""

    def __init__(
        self,
        *,
        model: str = "a" * 64,
        batches: list[Any] | None = None,
        sites: tuple[str, ...] = SITES,
    ) -> None:
        self.source = SimpleNamespace(name="halver", sha256=lambda: model)
        self.data = CalibrationData(4, BATCHES if batches is None else batches, [])
        self.sites = sites
        self.runs = 0
        self.weight: dict[str, NDArray[np.float32]] = {}

    @property
    def tensors(self) -> Halver:
        return self

    def collect(
        self, batches: NumberedBatches, needs: Needs, advance: Callable[[], None]
    ) -> Statistics:
        self.runs += 1
        return OnnxTensors(halver_onnx(), self.sites).collect(batches, needs, advance)

    def weights(self) -> dict[str, NDArray[np.float32]]:
        return self.weight


def options(folder: Path, method: str = "max", **changes: object) -> BuildOptions:
    recipe = Recipe(smooth=0, calibration=CalibrationSettings(method=method))
    made = BuildOptions(model="halver", recipe=recipe, cache=folder / "cache")
    return made.model_copy(update=changes)


def chosen(
    folder: Path, entrance: Halver, method: str = "max", **changes: object
) -> tuple[RangeTable, list[str]]:
    reporter = SilentReporter()
    table = choose_ranges(entrance, options(folder, method, **changes), reporter)  # type: ignore[arg-type]
    return table, reporter.notes


def files(folder: Path) -> list[Path]:
    return sorted((folder / "cache").iterdir())


def written(folder: Path, **changes: object) -> Path:
    """A range file of `Halver`."""
    kept = {"half": TensorRange(amax=3.0, peak=4.0), "shifted": TensorRange(amax=5.0, peak=6.0)}
    table = RangeTable(
        method="sqnr", samples=7, model_sha256="a" * 64, data_sha256="b" * 64, ranges=kept
    )
    path = folder / "ranges.json"
    cache.save(path, table.model_copy(update=changes))
    return path


def test_calibrated_ranges_say_what_they_were_made_from(tmp_path: Path) -> None:
    entrance = Halver()
    table, notes = chosen(tmp_path, entrance)
    assert {name: r.amax for name, r in table.ranges.items()} == {"half": 15.0, "shifted": 9.5}
    assert (table.method, table.samples, table.model_sha256) == ("max", 4, "a" * 64)
    assert table.data_sha256 == entrance.data.sha256()
    assert table.versions == {"trt_int8": __version__}
    assert notes == []


def test_the_method_of_the_recipe_decides(tmp_path: Path) -> None:
    entrance = Halver(batches=[ids([2] * 999 + [2000])], sites=("half",))
    table, _ = chosen(tmp_path, entrance, "percentile:99")
    assert table.method == "percentile:99"
    assert table.ranges["half"].amax == pytest.approx(1.0, abs=1000 / 2048)
    assert table.ranges["half"].peak == 1000.0


def test_only_what_the_method_needs_is_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Needs] = []
    gather = Halver.collect

    def watched(self: Halver, batches: NumberedBatches, needs: Needs, advance: Any) -> Statistics:
        seen.append(needs)
        return gather(self, batches, needs, advance)

    monkeypatch.setattr(Halver, "collect", watched)
    entrance = Halver()
    for method in ("max", "mse", "sqnr"):
        chosen(tmp_path, entrance, method, cache=None)
    assert seen == [Needs(histogram=False), Needs(), Needs(histogram=False, rows=True)]


def test_a_second_run_takes_its_ranges_from_the_cache_and_says_so(tmp_path: Path) -> None:
    entrance = Halver()
    first, _ = chosen(tmp_path, entrance)
    second, notes = chosen(tmp_path, entrance)
    assert second == first
    assert entrance.runs == 1
    assert notes == [f"ranges taken from {files(tmp_path)[0]}"]


def test_without_a_cache_folder_each_run_calibrates(tmp_path: Path) -> None:
    entrance = Halver()
    for _ in range(2):
        chosen(tmp_path, entrance, cache=None)
    assert entrance.runs == 2
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changed", "method"),
    [
        (Halver(), "percentile:99.99"),
        (Halver(batches=[*BATCHES[:1], ids([1, 3, 6])]), "max"),
        (Halver(batches=BATCHES[::-1]), "max"),
        (Halver(model="c" * 64), "max"),
        (Halver(sites=("half",)), "max"),
    ],
    ids=["method", "tokens", "order", "model", "sites"],
)
def test_whatever_the_ranges_depend_on_has_a_file_of_its_own(
    tmp_path: Path, changed: Halver, method: str
) -> None:
    chosen(tmp_path, Halver())
    _, notes = chosen(tmp_path, changed, method)
    assert changed.runs == 1
    changed.runs = 0
    assert len(files(tmp_path)) == 2
    assert notes == []


def test_another_version_of_the_package_calibrates_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entrance = Halver()
    chosen(tmp_path, entrance)
    monkeypatch.setattr(ranges, "__version__", "9.9.9")
    table, _ = chosen(tmp_path, entrance)
    assert (entrance.runs, table.versions) == (2, {"trt_int8": "9.9.9"})


def test_a_method_written_otherwise_finds_the_same_file(tmp_path: Path) -> None:
    entrance = Halver()
    for method in ("percentile:99.90", "percentile:p=99.9"):
        chosen(tmp_path, entrance, method)
    assert entrance.runs == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "mse"}, r"is of another method \('mse', not 'max'\)"),
        ({"data_sha256": "d" * 64}, r"is of another data_sha256 \('dddd"),
        ({"versions": {"trt_int8": "0"}}, "is of another versions"),
        ({"ranges": {"half": TensorRange(amax=1, peak=1)}}, "it lacks 'shifted'"),
    ],
)
def test_a_cache_file_that_was_swapped_is_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    table, _ = chosen(tmp_path, Halver())
    cache.save(files(tmp_path)[0], table.model_copy(update=change))
    with pytest.raises(CalibrationError, match=message):
        chosen(tmp_path, Halver())


def test_a_damaged_cache_file_is_refused(tmp_path: Path) -> None:
    chosen(tmp_path, Halver())
    path = files(tmp_path)[0]
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(CalibrationError, match="is cut off"):
        chosen(tmp_path, Halver())


def test_a_folder_that_cannot_be_written_costs_the_cache_not_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, table: RangeTable) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(cache, "save", refuse)
    table, notes = chosen(tmp_path, Halver())
    assert table.ranges["half"].amax == 15.0
    assert notes == [f"ranges not kept in {tmp_path / 'cache'} (Permission denied)"]


def test_a_range_file_is_used_as_it_is_and_nothing_is_run(tmp_path: Path) -> None:
    entrance = Halver()
    table, _ = chosen(tmp_path, entrance, ranges=written(tmp_path))
    assert {name: r.amax for name, r in table.ranges.items()} == {"half": 3.0, "shifted": 5.0}
    assert (table.method, table.samples) == ("sqnr", 7)
    assert entrance.runs == 0


def test_a_range_file_goes_before_the_cache(tmp_path: Path) -> None:
    chosen(tmp_path, Halver())
    table, notes = chosen(tmp_path, Halver(), ranges=written(tmp_path))
    assert (table.ranges["half"].amax, notes) == (3.0, [])


def test_ranges_of_tensors_that_stay_float_are_dropped(tmp_path: Path) -> None:
    table = read_ranges(written(tmp_path), Halver(sites=("shifted",)))  # type: ignore[arg-type]
    assert list(table.ranges) == ["shifted"]
    assert RangeTable.model_validate_json(table.to_json()) == table


def test_a_range_file_without_a_model_fits_by_its_names(tmp_path: Path) -> None:
    path = written(tmp_path, model_sha256="")
    assert read_ranges(path, Halver(model="c" * 64)).ranges["half"].amax == 3.0  # type: ignore[arg-type]


def test_a_range_file_of_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        CalibrationError, match=r"'.*ranges\.json' are of another model; wanted ranges of 'halver'"
    ):
        read_ranges(written(tmp_path), Halver(model="c" * 64))  # type: ignore[arg-type]


def test_a_range_file_that_lacks_a_tensor_is_refused_by_its_name(tmp_path: Path) -> None:
    path = written(tmp_path, ranges={"half": TensorRange(amax=1, peak=1)})
    with pytest.raises(
        CalibrationError, match=r"lack 'shifted' \(1 of 2 tensors missing\); .* 'keep'"
    ):
        read_ranges(path, Halver())  # type: ignore[arg-type]


def test_a_range_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"nothing\.json' cannot be read|no .*nothing\.json"):
        read_ranges(tmp_path / "nothing.json", Halver())  # type: ignore[arg-type]


def test_a_tensorrt_cache_is_read_too(tmp_path: Path) -> None:
    table = cache.read(written(tmp_path))
    path = tmp_path / "calibration.cache"
    path.write_text(from_ranges(table).to_text())
    found = read_ranges(path, Halver(model="c" * 64))  # type: ignore[arg-type]
    assert found.method == "tensorrt:EntropyCalibration2"
    assert found.ranges["shifted"].scale == table.ranges["shifted"].scale
    assert found.model_sha256 == ""


def test_a_site_without_data_is_refused_by_name() -> None:
    entrance = Halver(batches=[])
    with pytest.raises(RangeError, match="no calibration data reached 'half'"):
        find_all(entrance, {}, parse_method("max"), SilentReporter())  # type: ignore[arg-type]


def test_an_affine_method_gives_affine_ranges_to_who_asks() -> None:
    entrance = Halver()
    statistics = collect(entrance, EVERYTHING, None, SilentReporter())  # type: ignore[arg-type]
    found = find_all(entrance, statistics, parse_method("affine-minmax"), SilentReporter())  # type: ignore[arg-type]
    assert isinstance(found["shifted"], AffineRange)
    assert (found["shifted"].low, found["shifted"].high) == (-9.5, 5.0)


def test_ray_gets_the_address_and_all_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shared(
        address: str, source: Halver, batches: NumberedBatches, needs: Needs, advance: Any
    ) -> Statistics:
        asked.append((address, [number for number, _ in batches]))
        return OnnxTensors(halver_onnx(), source.sites).collect(batches, needs, lambda: advance(1))

    asked: list[tuple[str, list[int]]] = []
    monkeypatch.setattr(ranges, "collect_with_ray", shared)
    table, _ = chosen(tmp_path, Halver(), ray="head:6379")
    assert asked == [("head:6379", [0, 1])]
    assert table == chosen(tmp_path, Halver(), cache=None)[0]
