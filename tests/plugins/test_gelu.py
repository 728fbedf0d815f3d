from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_int8.errors import PluginError
from trt_int8.plugins.gelu import (
    BLOCK,
    MAX_HIDDEN,
    GeluForm,
    GeluScalars,
    constant_arguments,
    grid_blocks,
    launch,
    scalar_arguments,
    variant,
)


@given(hidden=st.integers(1, MAX_HIDDEN))
def test_accesses_are_as_wide_as_the_row_length_allows(hidden: int) -> None:
    assert GeluForm(hidden).width == math.gcd(hidden, 8)
    assert GeluForm(hidden, x="int8", bias=True).width == math.gcd(hidden, 8)
    assert GeluForm(hidden, x="int8", bias=False).width == math.gcd(hidden, 16)


def test_only_int8_without_bias_uses_the_table() -> None:
    forms = [GeluForm(64, x, bias=bias) for x in ("float16", "int8") for bias in (False, True)]
    assert [form.table for form in forms] == [False, False, True, False]


@given(hidden=st.integers(1, 5000), rows=st.integers(1, 5000))
def test_the_grid_covers_all_elements_and_no_block_is_empty(hidden: int, rows: int) -> None:
    form = GeluForm(hidden)
    blocks = launch(form, rows, 75).grid[0]
    per_block = BLOCK * form.width
    assert (blocks - 1) * per_block < rows * hidden <= blocks * per_block


def test_the_grid_needs_no_more_than_integer_arithmetic_of_rows() -> None:
    form = GeluForm(3072)
    assert grid_blocks(form, np.int64(5)) == launch(form, 5, 80).grid[0] == 8


def test_the_table_takes_256_bytes_of_shared_memory() -> None:
    assert launch(GeluForm(64, "int8", bias=False), 3, 75).shared_bytes == 256
    assert launch(GeluForm(64), 3, 75).shared_bytes == 0


def test_the_variant_names_every_choice() -> None:
    form = GeluForm(3072, x="int8", bias=False, tanh=True)
    assert dict(variant(form, 75).defines) == {
        "HIDDEN": 3072,
        "WIDTH": 16,
        "X_KIND": 2,
        "HAS_BIAS": 0,
        "TANH": 1,
    }


def test_the_integer_arguments_are_rows_then_float_bits() -> None:
    scalars = GeluScalars(0.5, x_scale=0.25)
    arguments = scalar_arguments(scalars, 7)
    assert arguments == (7, *constant_arguments(scalars))
    assert np.array(arguments[1:], np.int32).view(np.float32).tolist() == [0.25, 2.0]


@pytest.mark.parametrize("hidden", [0, MAX_HIDDEN + 1])
def test_a_row_that_is_empty_or_too_long_is_refused(hidden: int) -> None:
    with pytest.raises(PluginError, match=f"rows of {hidden} elements; wanted 1 to 1048576"):
        GeluForm(hidden)


@pytest.mark.parametrize("rows", [0, 2**31 // 64])
def test_a_launch_without_elements_or_with_too_many_is_refused(rows: int) -> None:
    with pytest.raises(PluginError, match=f"got {rows} rows of 64; wanted at least 1 and fewer"):
        launch(GeluForm(64), rows, 75)


def test_the_largest_launch_is_taken() -> None:
    assert launch(GeluForm(64), 2**31 // 64 - 1, 75).grid[0] == 2**20


@pytest.mark.parametrize("name", ["output_scale", "x_scale"])
def test_each_scale_is_checked(name: str) -> None:
    with pytest.raises(PluginError, match=f"BiasGeluQuant got {name} = nan"):
        GeluScalars(**{"output_scale": 1.0, name: math.nan})


def test_an_output_scale_near_the_error_of_gelu_is_refused() -> None:
    GeluScalars(2.0**-16)
    with pytest.raises(PluginError, match=r"positive scale from 1\.53e-05 to 1048576"):
        GeluScalars(1e-6)


def test_an_old_gpu_is_refused() -> None:
    with pytest.raises(PluginError, match="sm_70; wanted sm_75 or later"):
        variant(GeluForm(768), 70)
