from __future__ import annotations

from tests.runtime.test_fixed import signature
from trt_int8.runtime.buckets import Buckets
from trt_int8.runtime.fixed import for_cpu, with_shapes
from trt_int8.runtime.tensors import Signature, TensorInfo
from trt_int8.runtime.warm import default_shapes, example_feeds


def test_fixed_shapes_are_all_warmed() -> None:
    made = with_shapes(signature(), ((8, 16), (1, 32)))
    assert sorted(default_shapes(made, Buckets((16, 32)))) == [(1, 32), (8, 16)]


def test_else_every_bucket_with_one_sample() -> None:
    assert default_shapes(signature(), Buckets((4, 9))) == [(1, 4), (1, 9)]


def test_a_model_without_tokens_is_warmed_once() -> None:
    image = TensorInfo("pixels", "float32", ("batch", 3, 8, 8), (1, 3, 8, 8), (4, 3, 8, 8))
    made = Signature((image,), (), {}, None)
    assert default_shapes(made, None) == [(1, 1)]
    assert example_feeds(made, 2, 1)["pixels"].shape == (2, 3, 8, 8)


def test_every_token_of_the_example_is_real() -> None:
    made = example_feeds(for_cpu(signature()), 3, 7)
    assert {array.shape for array in made.values()} == {(3, 7)}
    assert made["mask"].all()
