from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_int8.errors import PluginError
from trt_int8.plugins.layernorm import (
    MAX_ACCESSES_PER_THREAD,
    MAX_HIDDEN,
    MAX_VALUES_PER_THREAD,
    LayerNormForm,
    LayerNormScalars,
    RowLayout,
    constant_arguments,
    grid_blocks,
    launch,
    scalar_arguments,
    variant,
)


@dataclass(frozen=True)
class Symbol:
    """An integer that only adds, multiplies and floor-divides, as TensorRT's symbolic one."""

    value: int

    def __add__(self, other: int) -> Symbol:
        return Symbol(self.value + other)

    def __mul__(self, other: int) -> Symbol:
        return Symbol(self.value * other)

    def __floordiv__(self, other: int) -> Symbol:
        return Symbol(self.value // other)


HIDDENS = st.integers(1, MAX_HIDDEN)


def elements_of(layout: RowLayout, hidden: int) -> list[int]:
    """Every element that the threads of a row hold, by the docstring of RowLayout."""
    starts = [
        (v * layout.lanes + t) * layout.width
        for v in range(layout.vectors)
        for t in range(layout.lanes)
    ]
    return [s + i for s in starts if s < hidden for i in range(layout.width)]


@given(hidden=HIDDENS)
def test_the_threads_of_a_row_hold_each_element_once(hidden: int) -> None:
    layout = LayerNormForm(hidden).layout
    assert sorted(elements_of(layout, hidden)) == list(range(hidden))


@given(hidden=HIDDENS)
def test_a_row_fits_the_registers_and_a_block(hidden: int) -> None:
    layout = LayerNormForm(hidden).layout
    assert layout.vectors * layout.width <= MAX_VALUES_PER_THREAD
    assert layout.vectors <= MAX_ACCESSES_PER_THREAD
    assert layout.block <= 512
    assert layout.block % 32 == 0


@given(hidden=HIDDENS)
def test_accesses_are_as_wide_as_the_row_length_allows(hidden: int) -> None:
    assert LayerNormForm(hidden).layout.width == math.gcd(hidden, 8)


@pytest.mark.parametrize(
    ("hidden", "layout"),
    [
        (384, RowLayout(width=8, lanes=16, vectors=3)),
        (768, RowLayout(width=8, lanes=32, vectors=3)),
        (1024, RowLayout(width=8, lanes=32, vectors=4)),
        (4096, RowLayout(width=8, lanes=128, vectors=4)),
    ],
)
def test_usual_lengths_leave_no_thread_idle(hidden: int, layout: RowLayout) -> None:
    assert LayerNormForm(hidden).layout == layout
    assert layout.lanes * layout.vectors * layout.width == hidden


def test_rows_up_to_1024_stay_inside_a_warp_and_need_no_shared_memory() -> None:
    layouts = [LayerNormForm(hidden).layout for hidden in range(8, 1025, 8)]
    assert max(layout.lanes for layout in layouts) == 32
    assert {layout.shared_bytes for layout in layouts} == {0}


def test_odd_rows_go_to_a_block_from_257_on() -> None:
    assert LayerNormForm(255).layout.lanes == 32
    assert LayerNormForm(257).layout.lanes == 64


def test_a_longer_row_takes_a_block_with_three_sums_of_its_warps_in_fours() -> None:
    three_warps, sixteen_warps = LayerNormForm(3072).layout, LayerNormForm(4095).layout
    assert (three_warps.rows_per_block, three_warps.block) == (1, 96)
    assert (three_warps.shared_bytes, sixteen_warps.shared_bytes) == (3 * 4 * 4, 3 * 16 * 4)
    assert sixteen_warps.block == 512


@pytest.mark.parametrize("rows", [1, 3, 4, 5, 129])
def test_the_grid_covers_all_rows_and_no_block_is_empty(rows: int) -> None:
    form = LayerNormForm(768)
    blocks = launch(form, rows, 75).grid[0]
    assert (blocks - 1) * 4 < rows <= blocks * 4


def test_the_grid_of_symbolic_rows_is_that_of_the_number() -> None:
    form = LayerNormForm(384)
    assert grid_blocks(form, Symbol(129)) == Symbol(launch(form, 129, 80).grid[0])


def test_the_variant_names_every_choice() -> None:
    form = LayerNormForm(768, x="int8", residual=None, bias=True, rms=True, half=True, sum=True)
    assert dict(variant(form, 80).defines) == {
        "HIDDEN": 768,
        "WIDTH": 8,
        "LANES": 32,
        "VECTORS": 3,
        "X_KIND": 2,
        "RESIDUAL_KIND": 0,
        "HAS_BIAS": 1,
        "RMS": 1,
        "HALF_OUTPUT": 1,
        "SUM_OUTPUT": 1,
    }


def test_the_integer_arguments_are_rows_then_float_bits() -> None:
    scalars = LayerNormScalars(0.5, 1e-5, x_scale=0.25, residual_scale=3.0)
    arguments = scalar_arguments(scalars, 7)
    assert arguments == (7, *constant_arguments(scalars))
    floats = np.array(arguments[1:], np.int32).view(np.float32)
    assert floats.tolist() == [0.25, 3.0, 2.0, np.float32(1e-5)]


@pytest.mark.parametrize("hidden", [0, -8, MAX_HIDDEN + 1])
def test_a_row_that_is_empty_or_too_long_is_refused(hidden: int) -> None:
    with pytest.raises(PluginError, match=f"rows of {hidden} elements; wanted 1 to 4096"):
        LayerNormForm(hidden)


@pytest.mark.parametrize("epsilon", [0.0, -1e-5, 1e-31, 2.0, math.nan])
def test_an_epsilon_that_does_not_keep_the_root_positive_is_refused(epsilon: float) -> None:
    with pytest.raises(PluginError, match="got epsilon = "):
        LayerNormScalars(0.1, epsilon)


@pytest.mark.parametrize("name", ["output_scale", "x_scale", "residual_scale"])
def test_each_scale_is_checked(name: str) -> None:
    values = {"output_scale": 1.0, "epsilon": 1e-5, name: -1.0}
    with pytest.raises(PluginError, match=f"SkipLayerNormQuant got {name} = -1.0"):
        LayerNormScalars(**values)


def test_a_launch_without_rows_is_refused() -> None:
    with pytest.raises(PluginError, match="got 0 rows; wanted at least 1"):
        launch(LayerNormForm(768), 0, 75)


def test_an_old_gpu_is_refused() -> None:
    with pytest.raises(PluginError, match="sm_70; wanted sm_75 or later"):
        variant(LayerNormForm(768), 70)
