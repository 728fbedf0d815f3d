from __future__ import annotations

from trt_int8.spec.overflow import Overflow


def test_a_tensor_is_told_with_its_size_and_what_was_done() -> None:
    both = Overflow(tensor="t", peak=2e5, float_nodes=("add", "norm"), scaled_nodes=("fc",))
    assert str(both) == (
        "t reaches 2e+05 (float16 ends at 65504): float32 in add, norm and divided by a power of"
        " two in fc"
    )
    assert str(Overflow(tensor="t", peak=9e3)).endswith("nothing reads it in half")
