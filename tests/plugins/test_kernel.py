"""What one compiled kernel is: the border between plugins and tests."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_int8.errors import PluginError
from trt_int8.plugins import attention, gelu, layernorm
from trt_int8.plugins.kernel import KernelVariant, float_bits, kernel_folder, sorted_defines

VARIANTS: dict[str, Callable[[int], KernelVariant]] = {
    "int8_attention": lambda sm: attention.variant(attention.AttentionOptions(head_dim=64), sm),
    "skip_layernorm_quant": lambda sm: layernorm.variant(layernorm.LayerNormForm(hidden=768), sm),
    "bias_gelu_quant": lambda sm: gelu.variant(gelu.GeluForm(hidden=768), sm),
}


@pytest.mark.parametrize("entry", VARIANTS)
def test_an_architecture_before_turing_is_refused(entry: str) -> None:
    match = rf"^{entry} was asked for sm_70; wanted sm_75 or later; build for a supported GPU"
    with pytest.raises(PluginError, match=match):
        VARIANTS[entry](70)


@pytest.mark.parametrize("entry", VARIANTS)
def test_turing_and_later_are_taken_and_the_source_is_there(entry: str) -> None:
    for sm in (75, 80, 120):
        variant = VARIANTS[entry](sm)
        assert (variant.entry, variant.sm) == (entry, sm)
        assert (kernel_folder() / variant.source).is_file()


def test_macros_come_in_one_order_however_they_are_given() -> None:
    assert sorted_defines({"B": True, "A": 3}) == sorted_defines({"A": 3, "B": 1})
    assert sorted_defines({"B": True, "A": 3}) == (("A", 3), ("B", 1))


@given(st.floats(width=32, allow_nan=False))
def test_a_float_argument_keeps_its_bits(value: float) -> None:
    assert struct.pack("<i", float_bits(value)) == struct.pack("<f", value)
