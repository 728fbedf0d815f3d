from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given as given_
from hypothesis import strategies as st

from trt_int8.errors import RequestError
from trt_int8.runtime.arrays import Given, read_array, shape_of
from trt_int8.runtime.tensors import TensorInfo

INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")


def of(dtype: str, axes: int = 2) -> Given:
    names: tuple[str, ...] = ("a", "b", "c")[:axes]
    return Given(TensorInfo("x", dtype, names, (1,) * axes, (9,) * axes), "request 4")


def read(value: object, dtype: str, *, allow_device: bool = False) -> Any:
    return read_array(value, of(dtype), allow_device=allow_device)


class OnDevice:
    """What pycuda, CuPy and torch show of memory on a GPU."""

    def __init__(self, typestr: str = "<i8", strides: tuple[int, ...] | None = None) -> None:
        self.__cuda_array_interface__ = {
            "shape": (2, 3),
            "typestr": typestr,
            "data": (4096, False),
            "strides": strides,
            "version": 3,
        }

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise AssertionError("memory of a GPU must not be read from the host")


def test_an_array_of_the_right_form_is_not_copied() -> None:
    array = np.ones((2, 3), np.int64)
    assert read(array, "int64") is array


@pytest.mark.parametrize(
    "odd",
    [
        np.arange(12, dtype=np.int64).reshape(2, 6)[:, ::-1],
        np.arange(12, dtype=np.int64).reshape(2, 6)[:, ::2],
        np.asfortranarray(np.arange(12, dtype=np.int64).reshape(2, 6)),
        np.arange(12, dtype=">i8").reshape(2, 6),
        np.broadcast_to(np.arange(6, dtype=np.int64), (2, 6)),
        np.frombuffer(bytes(97), np.int64, 12, offset=1).reshape(2, 6),
        np.arange(12, dtype=np.int64).reshape(2, 6).view(np.memmap),
    ],
    ids=["reversed", "strided", "fortran", "big-endian", "broadcast", "unaligned", "subclass"],
)
def test_an_odd_array_comes_out_in_c_order_and_native_bytes(odd: np.ndarray) -> None:
    before = odd.tolist()
    found = read(odd, "int64")
    assert found.tolist() == before == odd.tolist()
    assert found.flags.c_contiguous
    assert found.flags.aligned
    assert found.dtype.isnative
    assert type(found) is np.ndarray


@given_(st.sampled_from(("bool", *INTEGERS)), st.sampled_from(INTEGERS))
def test_integers_are_converted_exactly_when_every_value_of_the_type_survives(
    source: str, wanted: str
) -> None:
    limits = (0, 1) if source == "bool" else (np.iinfo(source).min, np.iinfo(source).max)
    room = np.iinfo(wanted)
    extremes = np.array([limits], source)
    if room.min <= limits[0] and limits[1] <= room.max:
        assert read(extremes, wanted).tolist() == extremes.astype(object).tolist()
    else:
        with pytest.raises(RequestError, match=f"'x' of request 4 is {source}"):
            read(extremes, wanted)


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("float64", "float32"),
        ("float32", "int64"),
        ("int8", "float32"),
        ("int64", "bool"),
        ("int64", "int32"),
        ("complex64", "float32"),
    ],
)
def test_a_conversion_that_could_change_values_is_refused(source: str, wanted: str) -> None:
    with pytest.raises(RequestError, match=f"input 'x' of request 4 (is|holds) {source}"):
        read(np.ones((2, 3), source), wanted)


def test_float64_is_told_how_to_become_float32() -> None:
    with pytest.raises(RequestError) as caught:
        read(np.ones((2, 3)), "float32")
    assert ".astype(np.float32)" in caught.value.todo
    assert read(np.ones((2, 3), np.float16), "float32").dtype == np.float32


def test_lists_of_integers_become_the_type_of_the_model_if_they_fit() -> None:
    assert read([[1, 2], [3, -4]], "int32").tolist() == [[1, 2], [3, -4]]
    assert read([[1, 2]], "int32").dtype == np.int32
    with pytest.raises(RequestError, match="is int64"):
        read([[1, 2**31]], "int32")


@pytest.mark.parametrize(
    "value",
    [[[1, 2], [3]], "text", None, object(), [["a", "b"]], {"a": 1}, np.array([None])],
    ids=["ragged", "text", "none", "object", "words", "mapping", "objects"],
)
def test_what_is_no_array_of_numbers_is_refused(value: object) -> None:
    with pytest.raises(RequestError, match="input 'x' of request 4"):
        read(value, "int64")


def test_a_masked_array_is_refused_as_its_mask_would_be_lost() -> None:
    with pytest.raises(RequestError, match="masked array"):
        read(np.ma.masked_equal(np.ones((2, 3), np.int64), 1), "int64")


def test_memory_of_a_gpu_is_handed_on_untouched_only_where_it_is_allowed() -> None:
    value = OnDevice()
    assert read(value, "int64", allow_device=True) is value
    assert shape_of(value) == (2, 3)
    with pytest.raises(RequestError, match="in the memory of a GPU") as caught:
        read(value, "int64")
    assert ".cpu().numpy()" in caught.value.todo
    assert ".get()" in caught.value.todo


def test_memory_of_a_gpu_must_have_the_type_of_the_model() -> None:
    with pytest.raises(RequestError, match="is int32 in the memory of a GPU"):
        read(OnDevice("<i4"), "int64", allow_device=True)


def test_memory_of_a_gpu_must_be_in_c_order() -> None:
    assert read(OnDevice(strides=(24, 8)), "int64", allow_device=True)
    with pytest.raises(RequestError, match="not in C order"):
        read(OnDevice(strides=(8, 16)), "int64", allow_device=True)


def test_memory_of_a_gpu_that_does_not_describe_itself_is_refused() -> None:
    class Odd:
        @property
        def __cuda_array_interface__(self) -> dict[str, Any]:
            raise TypeError("unsupported type")

    with pytest.raises(RequestError, match="cannot be described: unsupported type"):
        read(Odd(), "int64", allow_device=True)


def test_a_torch_tensor_is_read_without_a_copy() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.ones((2, 3), dtype=torch.int64)
    found = read(tensor, "int64")
    assert found.ctypes.data == tensor.data_ptr()


def test_a_torch_tensor_that_requires_a_gradient_is_read_too() -> None:
    torch = pytest.importorskip("torch")
    tensor = torch.full((2, 3), 0.5, requires_grad=True)
    assert read(tensor, "float32").tolist() == [[0.5] * 3] * 2


def test_a_torch_tensor_of_bfloat16_is_told_how_to_become_float32() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(RequestError, match="is bfloat16") as caught:
        read(torch.ones((2, 3), dtype=torch.bfloat16), "float32")
    assert ".float()" in caught.value.todo


def test_a_torch_tensor_without_data_is_refused() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(RequestError, match="'x' of request 4"):
        read(torch.ones((2, 3), device="meta"), "float32")
