from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.kernels.emulator import Emulator
from tests.kernels.layers import LAYERS, Layer, run_on
from tests.kernels.report import RunReport
from tests.plugins.layernorm_cases import (
    SCALARS,
    kernel_arguments,
    random_tensors,
    same_bits,
)
from trt_int8.plugins.layernorm import LayerNormForm, launch
from trt_int8.plugins.layernorm_model import (
    LayerNormResults,
    LayerNormTensors,
    skip_layernorm_quant,
)

ON_EACH_LAYER = pytest.mark.parametrize("layer", LAYERS)
ON_EACH_SM = pytest.mark.parametrize("sm", [75, 80])

# Every combination of types, options and access widths; rows that do not fill their last block.
CASES = {
    "halves-768": (LayerNormForm(768, bias=True, sum=True), 7),
    "halves-384-two-rows-a-warp": (LayerNormForm(384), 9),
    "codes-1024": (LayerNormForm(1024, x="int8", residual="int8"), 5),
    "codes-768": (LayerNormForm(768, x="int8", residual="int8", bias=True), 3),
    "codes-and-halves-312": (LayerNormForm(312, x="int8", bias=True, half=True), 17),
    "halves-and-codes-3072": (LayerNormForm(3072, residual="int8", half=True, sum=True), 2),
    "no-residual-4096": (LayerNormForm(4096, residual=None, half=True), 3),
    "rms-4096": (LayerNormForm(4096, rms=True, sum=True), 1),
    "rms-codes-64": (LayerNormForm(64, x="int8", residual=None, rms=True, bias=True), 33),
    "one-wide-1023": (LayerNormForm(1023, bias=True, half=True, sum=True), 5),
    "one-wide-1025-five-warps": (LayerNormForm(1025, x="int8", residual="int8"), 3),
    "one-wide-4095-sixteen-warps": (LayerNormForm(4095, residual=None, rms=True), 2),
    "one-wide-63": (LayerNormForm(63, x="int8"), 5),
    "two-wide-50": (LayerNormForm(50, rms=True, half=True), 18),
    "four-wide-100": (LayerNormForm(100, x="int8", residual="int8", sum=True), 5),
    "one-element": (LayerNormForm(1, half=True), 16),
}


def run(
    layer: Layer, form: LayerNormForm, tensors: LayerNormTensors, sm: int = 75, seed: int = 0
) -> tuple[LayerNormResults, RunReport]:
    arguments, results = kernel_arguments(form, SCALARS, tensors)
    report = run_on(layer, launch(form, tensors.x.shape[0], sm), arguments, seed)
    return results, report


@ON_EACH_LAYER
@ON_EACH_SM
@pytest.mark.parametrize("case", CASES)
def test_the_kernel_has_the_bits_of_the_model(layer: Layer, sm: int, case: str) -> None:
    form, rows = CASES[case]
    tensors = random_tensors(form, rows)
    results, _ = run(layer, form, tensors, sm)
    assert same_bits(results, skip_layernorm_quant(form, SCALARS, tensors))


@ON_EACH_LAYER
@pytest.mark.parametrize("rms", [False, True], ids=["layer", "rms"])
def test_odd_rows_have_the_bits_of_the_model(layer: Layer, rms: bool) -> None:
    form = LayerNormForm(100, residual=None, rms=rms, half=True, sum=True)
    tensors = random_tensors(form, 8)
    x = tensors.x.copy()
    x[0, 3], x[1, 99], x[2, 0] = np.nan, np.inf, -np.inf
    x[3], x[4], x[5] = 0, 7.5, 65504
    x[6] = np.where(np.arange(100) % 2, 65504, -65504)
    tensors = replace(tensors, x=x)
    results, _ = run(layer, form, tensors)
    assert same_bits(results, skip_layernorm_quant(form, SCALARS, tensors))
    assert (results.y[:3] == 0).all()


@ON_EACH_LAYER
@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 8])
def test_any_number_of_rows_is_written_whole(layer: Layer, rows: int) -> None:
    # Four rows of a block are a warp each.
    form = LayerNormForm(256, residual=None)
    tensors = random_tensors(form, rows)
    results, _ = run(layer, form, tensors)
    assert same_bits(results, skip_layernorm_quant(form, SCALARS, tensors))


@ON_EACH_LAYER
def test_saturated_codes_are_the_ends_of_int8(layer: Layer) -> None:
    form = LayerNormForm(64, residual=None)
    tensors = replace(random_tensors(form, 3), gamma=np.full(64, 60000, np.float16))
    results, _ = run(layer, form, tensors)
    assert set(np.unique(results.y)) == {-128, 127}


@pytest.mark.parametrize("seed", range(1, 6))
def test_the_order_of_threads_does_not_matter(seed: int) -> None:
    form = LayerNormForm(2048)
    tensors = random_tensors(form, 2)
    results, _ = run("emulator", form, tensors, seed=seed)
    assert same_bits(results, skip_layernorm_quant(form, SCALARS, tensors))


@pytest.mark.sanitizer
@pytest.mark.parametrize("sanitizer", ["address", "thread"])
@pytest.mark.parametrize("case", ["halves-768", "one-wide-1025-five-warps", "two-wide-50"])
def test_sanitizers_find_nothing(sanitizer: str, case: str) -> None:
    form, rows = CASES[case]
    tensors = random_tensors(form, rows)
    arguments, results = kernel_arguments(form, SCALARS, tensors)
    emulator = Emulator("address" if sanitizer == "address" else "thread")
    emulator.run(launch(form, rows, 80), arguments, seed=3)
    assert same_bits(results, skip_layernorm_quant(form, SCALARS, tensors))


@pytest.mark.slow
@ON_EACH_LAYER
@pytest.mark.parametrize("hidden", [384, 768, 1024, 1023, 2048, 4096])
def test_large_batches_have_the_bits_of_the_model(layer: Layer, hidden: int) -> None:
    form = LayerNormForm(hidden, bias=True, half=True, sum=True)
    tensors = random_tensors(form, 113)
    results, _ = run(layer, form, tensors)
    assert same_bits(results, skip_layernorm_quant(form, SCALARS, tensors))


def test_each_input_is_read_once_in_whole_sectors() -> None:
    form = LayerNormForm(768, bias=True, half=True)
    rows = 4
    _, report = run("interpreter", form, random_tensors(form, rows))
    # 32-byte sectors of one row of halves; a row reads x, residual, bias, gamma and beta.
    sectors = 768 * 2 // 32
    assert report.global_["ld.global"].units == rows * 5 * sectors
    assert report.global_["st.global"].units == rows * (768 // 32 + sectors)
