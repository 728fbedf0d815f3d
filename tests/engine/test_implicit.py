from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.fake_tensorrt import FakeTensorRT
from trt_int8 import optional
from trt_int8.engine.flavour import MODULE_OF
from trt_int8.engine.implicit import CalibrationBatches, check_implicit, make_calibrator
from trt_int8.errors import CalibrationError, MissingPackageError, TargetError
from trt_int8.spec.build import CalibratorName, Flavour, ImplicitInt8
from trt_int8.spec.shapes import InputShape

SHAPES = tuple(InputShape(name=n, min=(1, 2), opt=(3, 5), max=(7, 9)) for n in ("ids", "mask"))
TYPES: dict[str, np.dtype[Any]] = {"ids": np.dtype(np.int32), "mask": np.dtype(np.int64)}
ENTROPY2, MINMAX = type("Entropy2", (), {}), type("MinMax", (), {})
IDS = np.arange(15).reshape(3, 5)


def write(path: Path, arrays: Mapping[str, NDArray[Any]]) -> Path:
    np.savez(path, **cast(Any, arrays))
    return path


def two_batches(path: Path, **changes: NDArray[Any]) -> Path:
    named = {f"{n:06d}.{name}": IDS + n for n in (0, 1) for name in ("ids", "mask")}
    return write(path, {**named, **changes})


def batches(path: Path) -> CalibrationBatches:
    return CalibrationBatches(path, SHAPES, TYPES)


@pytest.fixture
def polygraphy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Polygraphy's `Calibrator` gives what it was called with."""

    def calibrator(data_loader: Any, **settings: Any) -> SimpleNamespace:
        return SimpleNamespace(data=list(data_loader), **settings)

    module = SimpleNamespace(Calibrator=calibrator)
    monkeypatch.setattr(optional, "load", {"polygraphy.backend.trt": module}.__getitem__)


def calibrator(cache: Path, path: Path, name: CalibratorName = "entropy2") -> Any:
    trt = SimpleNamespace(IInt8EntropyCalibrator2=ENTROPY2, IInt8MinMaxCalibrator=MINMAX)
    asked = ImplicitInt8(calibrator=name, cache_path=str(cache), batches_path=str(path))
    return make_calibrator(trt, asked, SHAPES, TYPES)


def test_a_tensorrt_with_calibrators_and_the_flag_passes() -> None:
    check_implicit(Flavour.TENSORRT, cast(ModuleType, FakeTensorRT()))


def test_tensorrt_without_the_int8_flag_is_refused() -> None:
    trt = FakeTensorRT()
    trt.BuilderFlag = SimpleNamespace()
    with pytest.raises(TargetError, match=r"^TensorRT 10\.99 has no INT8 calibrators .*in 11\.0"):
        check_implicit(Flavour.TENSORRT, cast(ModuleType, trt))


def test_tensorrt_without_the_calibrators_is_refused() -> None:
    trt = SimpleNamespace(__version__="10.98", BuilderFlag=FakeTensorRT.BuilderFlag)
    with pytest.raises(TargetError, match=r"^TensorRT 10\.98 has no INT8 calibrators"):
        check_implicit(Flavour.TENSORRT, cast(ModuleType, trt))


def test_tensorrt_rtx_is_refused_with_the_way_out() -> None:
    version = pytest.importorskip("tensorrt_rtx").__version__
    with pytest.raises(TargetError) as caught:
        check_implicit(Flavour.RTX)
    text = str(caught.value)
    assert text.startswith(f"TensorRT-RTX {version} has no INT8 calibrators")
    assert "wanted TensorRT 8.6 to 10 for --implicit-int8" in text
    assert "trt-int8 calib convert CACHE ranges.json" in text


def test_a_package_that_is_not_installed_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(MODULE_OF, Flavour.TENSORRT, "no_such_trt")
    with pytest.raises(MissingPackageError, match="'no_such_trt' is not installed"):
        check_implicit(Flavour.TENSORRT)


def test_batches_come_by_their_number_not_by_their_place_in_the_file(tmp_path: Path) -> None:
    # Seven digits: in the order of letters this one would come before 000002.
    arrays = {f"{n:06d}.ids": np.full((3, 5), n) for n in (1000000, 2, 10)}
    found = [int(b["ids"][0, 0]) for b in batches(write(tmp_path / "b.npz", arrays))]
    assert found == [2, 10, 1000000]


def test_each_array_has_the_dtype_of_its_input(tmp_path: Path) -> None:
    first = next(iter(batches(two_batches(tmp_path / "b.npz"))))
    assert {name: array.dtype for name, array in first.items()} == TYPES
    assert first["ids"].tolist() == IDS.tolist()


def test_a_dot_in_the_name_of_an_input_stays(tmp_path: Path) -> None:
    path = write(tmp_path / "b.npz", {"000000.a.b": IDS})
    assert [list(batch) for batch in batches(path)] == [["a.b"]]


def test_only_the_batch_that_is_asked_for_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = two_batches(tmp_path / "b.npz")
    read: list[str] = []
    original = np.lib.npyio.NpzFile.__getitem__

    def spy(self: Any, key: str) -> Any:
        read.append(key)
        return original(self, key)

    monkeypatch.setattr(np.lib.npyio.NpzFile, "__getitem__", spy)
    next(iter(batches(path)))
    assert sorted(read) == ["000000.ids", "000000.mask"]


def test_batches_can_be_read_again(tmp_path: Path) -> None:
    both = batches(two_batches(tmp_path / "b.npz"))
    assert [len(list(both)), len(list(both))] == [2, 2]


def test_batches_of_the_opt_shape_pass_the_check(tmp_path: Path) -> None:
    batches(two_batches(tmp_path / "b.npz")).check()


@pytest.mark.parametrize(
    ("name", "array", "came"),
    [
        ("000001.mask", IDS[:2], r"batch 1 of 'b.npz' has ids \[3, 5\], mask \[2, 5\]"),
        ("000000.ids", IDS[:, :4], r"batch 0 of 'b.npz' has ids \[3, 4\], mask \[3, 5\]"),
        ("000002.ids", IDS, r"batch 2 of 'b.npz' has ids \[3, 5\]; wanted"),
        ("000001.more", IDS, r"batch 1 of 'b.npz' has ids \[3, 5\], mask \[3, 5\], more \[3, 5\]"),
    ],
)
def test_a_batch_with_another_shape_or_other_inputs_is_refused(
    name: str, array: NDArray[Any], came: str, tmp_path: Path
) -> None:
    path = two_batches(tmp_path / "b.npz", **{name: array})
    with pytest.raises(CalibrationError, match=came) as caught:
        batches(path).check()
    assert "wanted ids [3, 5], mask [3, 5], the opt shape" in str(caught.value)


def test_a_file_without_batches_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"'b\.npz' holds no batch; wanted at least one"):
        batches(write(tmp_path / "b.npz", {})).check()


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"'b\.npz' cannot be read \(.*No such file"):
        batches(tmp_path / "b.npz").check()


@pytest.mark.parametrize("compress", [False, True])
def test_a_damaged_file_is_refused(compress: bool, tmp_path: Path) -> None:
    path = two_batches(tmp_path / "b.npz")
    if compress:
        noise = {"000000.ids": np.random.default_rng(0).integers(9, size=999)}
        np.savez_compressed(path, **cast(Any, noise))
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        start = archive.infolist()[0].header_offset + 60
    data[start : start + 90] = b"\xff" * 90
    path.write_bytes(data)
    with pytest.raises(CalibrationError, match=r"'b\.npz' cannot be read \("):
        batches(path).check()


def test_an_array_without_a_number_is_refused(tmp_path: Path) -> None:
    path = two_batches(tmp_path / "b.npz", ids=IDS)
    with pytest.raises(CalibrationError, match=r"cannot be read .*wanted .*000000\.input_ids"):
        batches(path).check()


@pytest.mark.usefixtures("polygraphy")
@pytest.mark.parametrize(("name", "base"), [("entropy2", ENTROPY2), ("minmax", MINMAX)])
def test_the_named_calibrator_is_made_on_the_cache(
    name: CalibratorName, base: type, tmp_path: Path
) -> None:
    made = calibrator(tmp_path / "c", two_batches(tmp_path / "b.npz"), name)
    assert (made.BaseClass, made.cache) == (base, str(tmp_path / "c"))


@pytest.mark.usefixtures("polygraphy")
def test_with_a_cache_the_batches_are_not_even_opened(tmp_path: Path) -> None:
    (tmp_path / "c").write_text("TRT-8601-EntropyCalibration2\n")
    assert calibrator(tmp_path / "c", tmp_path / "missing.npz").data == []


@pytest.mark.usefixtures("polygraphy")
@pytest.mark.parametrize("empty", [False, True])
def test_without_a_cache_or_with_an_empty_one_all_batches_are_given(
    empty: bool, tmp_path: Path
) -> None:
    if empty:
        (tmp_path / "c").touch()
    made = calibrator(tmp_path / "c", two_batches(tmp_path / "b.npz"))
    assert [int(batch["ids"][0, 0]) for batch in made.data] == [0, 1]


@pytest.mark.usefixtures("polygraphy")
def test_batches_that_do_not_fit_are_refused_when_the_calibrator_is_made(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="holds no batch"):
        calibrator(tmp_path / "c", write(tmp_path / "b.npz", {}))
