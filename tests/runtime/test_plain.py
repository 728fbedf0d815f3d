from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trt_int8.runtime.plain import PlainShapes
from trt_int8.runtime.tensors import TensorInfo

INPUTS = tuple(TensorInfo(name, "int64", ("batch", "seq"), (1, 1), (8, 8)) for name in "ab")


def feeds(**changes: Any) -> dict[str, Any]:
    return {"a": np.zeros((2, 4), np.int64), "b": np.zeros((2, 4), np.int64)} | changes


def test_only_shapes_that_were_added_are_known() -> None:
    plain = PlainShapes(INPUTS)
    shapes = plain.of(feeds())
    assert shapes == ((2, 4), (2, 4))
    assert shapes not in plain
    plain.add(shapes)
    assert plain.of(feeds()) in plain
    assert plain.of(feeds(b=np.zeros((2, 5), np.int64))) not in plain


@pytest.mark.parametrize(
    "request_",
    [
        {},
        {"a": np.zeros((2, 4), np.int64)},
        feeds(c=np.zeros(1)),
        feeds(b=[[0] * 4] * 2),
        feeds(b=np.zeros((2, 4), np.int32)),
        feeds(b=np.zeros((2, 4), ">i8")),
        feeds(b=np.zeros((4, 2), np.int64).T),
        feeds(b=np.zeros((2, 8), np.int64)[:, ::2]),
        feeds(b=np.frombuffer(bytes(65), np.int64, 8, offset=1).reshape(2, 4)),
        feeds(b=np.zeros((2, 4), np.int64).view(np.matrix)),
        [],
    ],
)
def test_what_may_need_more_than_a_look_is_not_plain(request_: Any) -> None:
    plain = PlainShapes(INPUTS)
    assert plain.of(request_) == ()
    assert plain.of(request_) not in plain


def test_it_does_not_grow_without_bound() -> None:
    plain = PlainShapes(INPUTS)
    for size in range(5000):
        plain.add(((size, 1), (size, 1)))
    assert sum(((size, 1), (size, 1)) in plain for size in range(5000)) == 4096
