from __future__ import annotations

from tests.support.keys_graph import PLAIN, B, D, H, K, N, S, attention
from trt_int8.runtime.cpu.sizes import FixedSizes


def test_sizes_are_those_of_each_shape_asked_for() -> None:
    reader = FixedSizes(attention(*PLAIN).SerializeToString())
    for batch, length in ((B, S), (1, 2), (B, S)):
        found = reader.of({"x": (batch, length, K)})
        assert found["keys_product"] == (batch, length, H)
        assert found["turned"] == (batch, N, D, length)


def test_axes_that_are_not_told_are_symbols() -> None:
    found = FixedSizes(attention(*PLAIN).SerializeToString()).of({})
    assert found["keys_product"] == ("batch", "sequence", H)
    assert found["split"] == ("batch", "sequence", N, D)


def test_a_graph_that_fits_no_such_input_tells_nothing_wrong() -> None:
    found = FixedSizes(attention(*PLAIN).SerializeToString()).of({"x": (B, S, K + 1)})
    assert "turned" not in found or found["turned"][-1] != S
