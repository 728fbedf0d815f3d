from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.runtime_bundle import A10, A100, T4, Installed, flip, make, vouch
from trt_int8.errors import DeviceError
from trt_int8.runtime.device import Device, choose_device, parse_device
from trt_int8.runtime.gpu.cards import Card
from trt_int8.spec.manifest import Manifest


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return vouch(make(tmp_path / "bundle"))


def unasked() -> tuple[Card, ...]:
    pytest.fail("the machine was asked for its cards")


@pytest.mark.parametrize(
    ("text", "device"),
    [
        ("auto", None),
        (" Auto ", None),
        ("cpu", Device("cpu")),
        ("CPU", Device("cpu")),
        ("cuda", Device("cuda", 0)),
        ("cuda:0", Device("cuda", 0)),
        ("CUDA:17", Device("cuda", 17)),
    ],
)
def test_a_device_is_read(text: str, device: Device | None) -> None:
    assert parse_device(text) == device


@pytest.mark.parametrize(
    "text",
    [
        *("", "gpu", "cpu:0", "cuda:", "cuda:-1", "cuda:x", "cuda:1.5", "cuda:0x1", "cuda 0"),
        *("cuda:99999", "cuda:٣", "tpu", "cuda:0,1"),
    ],
)
def test_what_is_no_device_is_refused(text: str) -> None:
    with pytest.raises(DeviceError, match="wanted auto, cpu, cuda or cuda:N"):
        parse_device(text)


@pytest.mark.parametrize("text", ["cpu", "cuda:0", "cuda:17"])
def test_a_device_is_written_as_it_is_read(text: str) -> None:
    assert str(parse_device(text)) == text


@pytest.mark.parametrize("text", ["cpu", "cuda:5"])
def test_what_was_asked_for_is_taken_as_it_is(manifest: Manifest, text: str) -> None:
    chosen = choose_device(text, manifest, unasked)
    assert (str(chosen), chosen.reason) == (text, "")


def test_auto_is_the_cpu_without_a_card(manifest: Manifest) -> None:
    chosen = choose_device("auto", manifest, tuple, installed=Installed())
    assert chosen == Device("cpu")
    assert "there is no NVIDIA card, or no driver" in chosen.reason


def test_auto_is_the_card_that_an_engine_fits(manifest: Manifest) -> None:
    chosen = choose_device("auto", manifest, lambda: (T4,), installed=Installed())
    assert chosen == Device("cuda", 0)
    assert chosen.reason == "sm75/int8.engine fits card cuda:0 (Tesla T4, SM75)"


def test_auto_passes_over_a_card_that_no_engine_fits(manifest: Manifest) -> None:
    chosen = choose_device("auto", manifest, lambda: (A10, A100), installed=Installed())
    assert chosen == Device("cuda", 1)


def test_auto_is_the_cpu_beside_a_card_that_no_engine_fits_and_says_why(
    manifest: Manifest,
) -> None:
    chosen = choose_device("auto", manifest, lambda: (A10,), installed=Installed())
    assert chosen == Device("cpu")
    assert chosen.reason.startswith("runs on the CPU: card cuda:0 (NVIDIA A10) is SM86, and")
    assert "--target sm75,sm80,sm86" in chosen.reason


def test_auto_is_the_cpu_beside_a_foreign_tensorrt_and_says_why(manifest: Manifest) -> None:
    chosen = choose_device("auto", manifest, lambda: (T4,), installed=Installed("1.6.0.1"))
    assert chosen == Device("cpu")
    assert "TensorRT-RTX 1.6.0.1 is installed" in chosen.reason


def test_auto_looks_for_an_engine_of_the_precision_asked_for(manifest: Manifest) -> None:
    only = manifest.model_copy(update={"engines": manifest.engines[::2]})
    one = choose_device("auto", only, lambda: (T4,), "int8", Installed())
    other = choose_device("auto", only, lambda: (T4,), "fp16", Installed())
    assert (one, other) == (Device("cuda", 0), Device("cpu"))


def test_a_damaged_engine_is_no_reason_to_run_on_the_cpu_in_silence(tmp_path: Path) -> None:
    bundle = make(tmp_path / "bundle")
    manifest = vouch(bundle)
    flip(bundle / "sm75/int8.engine", 0)
    chosen = choose_device("auto", manifest, lambda: (T4,), installed=Installed())
    assert chosen == Device("cuda", 0)
