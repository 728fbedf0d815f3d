from __future__ import annotations

import numpy as np
import pytest

from tests.kernels.emulator import Emulator
from tests.kernels.layers import LAYERS, Layer, run_on
from tests.kernels.report import RunReport
from tests.plugins.gelu_cases import SCALARS, kernel_arguments, random_tensors
from trt_int8.plugins.gelu import GeluForm, launch
from trt_int8.plugins.gelu_model import bias_gelu_quant

ON_EACH_LAYER = pytest.mark.parametrize("layer", LAYERS)
ON_EACH_SM = pytest.mark.parametrize("sm", [75, 80])

# Every combination of type, bias and kind, every access width; blocks that are not full.
CASES = {
    "halves-384": (GeluForm(384), 9),
    "halves-384-tanh": (GeluForm(384, tanh=True), 9),
    "halves-no-bias-1020": (GeluForm(1020, bias=False), 3),
    "codes-768": (GeluForm(768, "int8"), 5),
    "codes-50-tanh": (GeluForm(50, "int8", tanh=True), 7),
    "table-3072": (GeluForm(3072, "int8", bias=False), 3),
    "table-72-tanh": (GeluForm(72, "int8", bias=False, tanh=True), 31),
    "table-one-wide-333": (GeluForm(333, "int8", bias=False), 3),
    "halves-one-wide-333": (GeluForm(333), 3),
    "one-element": (GeluForm(1, tanh=True), 1),
}


def run(
    layer: Layer, form: GeluForm, rows: int, sm: int = 75, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, RunReport]:
    """What came, what the model gives, and the report."""
    x, bias = random_tensors(form, rows)
    arguments, y = kernel_arguments(SCALARS, x, bias)
    report = run_on(layer, launch(form, rows, sm), arguments, seed)
    return y, bias_gelu_quant(form, SCALARS, x, bias), report


@ON_EACH_LAYER
@ON_EACH_SM
@pytest.mark.parametrize("case", CASES)
def test_the_kernel_has_the_bits_of_the_model(layer: Layer, sm: int, case: str) -> None:
    came, wanted, _ = run(layer, *CASES[case], sm)
    assert (came == wanted).all()


@ON_EACH_LAYER
@pytest.mark.parametrize("tanh", [False, True], ids=["erf", "tanh"])
def test_every_half_has_the_bits_of_the_model(layer: Layer, tanh: bool) -> None:
    form = GeluForm(256, bias=False, tanh=tanh)
    x = np.arange(2**16, dtype=np.uint16).view(np.float16).reshape(256, 256)
    arguments, y = kernel_arguments(SCALARS, x, None)
    run_on(layer, launch(form, 256, 80), arguments)
    assert (y == bias_gelu_quant(form, SCALARS, x)).all()
    assert (y[np.isnan(x)] == 0).all()


@ON_EACH_LAYER
def test_the_table_has_the_result_of_every_code(layer: Layer) -> None:
    form = GeluForm(256, "int8", bias=False)
    x = np.arange(-128, 128).astype(np.int8)[None]
    arguments, y = kernel_arguments(SCALARS, x, None)
    run_on(layer, launch(form, 1, 75), arguments)
    assert (y == bias_gelu_quant(form, SCALARS, x)).all()


@pytest.mark.parametrize("seed", range(1, 6))
def test_the_order_of_threads_does_not_matter(seed: int) -> None:
    came, wanted, _ = run("emulator", *CASES["table-3072"], seed=seed)
    assert (came == wanted).all()


@pytest.mark.sanitizer
@pytest.mark.parametrize("sanitizer", ["address", "thread"])
@pytest.mark.parametrize("case", ["halves-384", "table-72-tanh"])
def test_sanitizers_find_nothing(sanitizer: str, case: str) -> None:
    form, rows = CASES[case]
    x, bias = random_tensors(form, rows)
    arguments, y = kernel_arguments(SCALARS, x, bias)
    emulator = Emulator("address" if sanitizer == "address" else "thread")
    emulator.run(launch(form, rows, 80), arguments, seed=3)
    assert (y == bias_gelu_quant(form, SCALARS, x, bias)).all()


def test_each_element_moves_once_in_whole_sectors() -> None:
    _, _, report = run("interpreter", GeluForm(1024), 4)
    # x and bias in halves, y in bytes, 32 bytes a sector.
    assert report.global_["ld.global"].units == 4 * 1024 * (2 + 2) // 32
    assert report.global_["st.global"].units == 4 * 1024 // 32


def test_the_table_takes_less_than_a_third_of_the_instructions_of_the_arithmetic() -> None:
    _, _, table = run("interpreter", GeluForm(4096, "int8", bias=False), 4)
    _, _, arithmetic = run("interpreter", GeluForm(4096, "int8"), 4)
    assert 3 * sum(table.instructions.values()) < sum(arithmetic.instructions.values())


def test_a_look_up_takes_at_most_two_wavefronts() -> None:
    _, _, report = run("interpreter", GeluForm(4096, "int8", bias=False), 4)
    assert report.shared["ld.shared"].per_request <= 2.0
