from __future__ import annotations

import sys
from pathlib import Path

import pytest

from trt_int8 import optional
from trt_int8.errors import MissingPackageError


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_load_gives_the_module() -> None:
    assert optional.load("json") is sys.modules["json"]


def test_an_installed_package_is_found_without_importing_it(packages: Path) -> None:
    (packages / "odd_bomb.py").write_text("raise RuntimeError('imported')\n", encoding="utf-8")
    assert optional.is_installed("odd_bomb")
    assert "odd_bomb" not in sys.modules


def test_a_package_that_is_not_there_is_not_installed() -> None:
    assert not optional.is_installed("no_such_package_7")


def test_a_missing_optional_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(
        MissingPackageError,
        match=r"'tensorrt' is not installed; wanted .*flavour.* pip install 'trt-int8\[tensorrt\]'",
    ):
        optional.load("tensorrt")


def test_a_missing_main_package_names_no_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(MissingPackageError, match=r"main job; run: pip install 'trt-int8'\.$"):
        optional.load("tensorrt_rtx")


def test_a_package_that_lacks_a_package_of_its_own_names_that_one(packages: Path) -> None:
    (packages / "odd_outer.py").write_text("import odd_inner_missing\n", encoding="utf-8")
    with pytest.raises(ModuleNotFoundError, match="odd_inner_missing"):
        optional.load("odd_outer")


def test_an_error_inside_a_package_is_not_taken_for_a_missing_one(packages: Path) -> None:
    (packages / "odd_broken.py").write_text("raise ImportError('no driver')\n", encoding="utf-8")
    with pytest.raises(ImportError, match="no driver"):
        optional.load("odd_broken")
