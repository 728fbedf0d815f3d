from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from trt_int8.engine.plugins import check_support
from trt_int8.errors import PluginError


def tensorrt(version: str, *, quick: bool = True) -> SimpleNamespace:
    extra = {"QuickPluginCreationRequest": object()} if quick else {}
    return SimpleNamespace(__name__="tensorrt", __version__=version, **extra)


@pytest.fixture
def front_end(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("tensorrt.plugin")
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    monkeypatch.setitem(sys.modules, "tensorrt.plugin", module)
    return module


@pytest.mark.parametrize(
    ("version", "numpy"),
    [
        ("10.9.0.34", "1.26.4"),
        ("10.9.0.34", "2.3.5"),
        ("11.0.0.114", "2.2.6"),
        ("11.4.0.106", "2.4.0"),
        ("12.0.0", "3.0.0"),
        ("11.10.1", "2.10.0"),
    ],
)
def test_a_pair_that_works_gives_the_front_end(
    version: str, numpy: str, front_end: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np, "__version__", numpy)
    assert check_support(tensorrt(version)) is front_end


@pytest.mark.parametrize("version", ["10.9.0.34", "10.16.1.11", "11.0.0.114", "11.3.0.1"])
@pytest.mark.parametrize("numpy", ["2.4.0", "2.4.6", "2.10.1", "3.0.0rc1"])
def test_a_numpy_that_breaks_attributes_is_refused_with_the_one_to_install(
    version: str, numpy: str, front_end: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np, "__version__", numpy)
    with pytest.raises(PluginError) as caught:
        check_support(tensorrt(version))
    assert str(caught.value) == (
        f"NumPy {numpy} breaks the plugin attributes of TensorRT {version}; wanted NumPy older than"
        " 2.4, or TensorRT 11.4 or newer; run: pip install 'numpy<2.4', or pass --plugins off."
    )


@pytest.mark.parametrize("version", ["8.6.1", "10.8.0.43"])
def test_a_tensorrt_without_kernels_from_python_is_refused(version: str) -> None:
    with pytest.raises(PluginError) as caught:
        check_support(tensorrt(version, quick=False))
    assert str(caught.value) == (
        f"tensorrt {version} cannot take kernels from Python; wanted TensorRT 10.9 or newer"
        " (TensorRT-RTX has none of this); run: pip install 'trt-int8[tensorrt]' --upgrade, or pass"
        " --plugins off."
    )


def test_a_tensorrt_whose_front_end_is_missing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", ModuleType("tensorrt"))
    monkeypatch.delitem(sys.modules, "tensorrt.plugin", raising=False)
    monkeypatch.setattr(np, "__version__", "2.2.6")
    with pytest.raises(PluginError, match=r"without its module tensorrt\.plugin"):
        check_support(tensorrt("10.9.0.34"))


def test_tensorrt_rtx_itself_is_refused() -> None:
    rtx = pytest.importorskip("tensorrt_rtx")
    with pytest.raises(PluginError, match="cannot take kernels from Python"):
        check_support(rtx)
