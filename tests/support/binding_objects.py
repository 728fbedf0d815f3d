"""Genuine binding objects whose C++ side only notes the calls; in a child with the bindings.

A property of trt.IBuilderConfig is one virtual C++ call on what the Python object holds. Here it
holds a table whose entries all note their number and the pointer they are called with, so that a
test can use the genuine setter and getter without TensorRT.
"""

from __future__ import annotations

import ctypes
from typing import Any, Final

# More than any class of TensorRT has virtual methods.
_METHODS: Final = 256
_METHOD: Final = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
# pybind11's `instance`: the pointer to the C++ object comes right after PyObject_HEAD.
_VALUE_OFFSET: Final = object.__basicsize__


class NotedCalls:
    """The C++ side of one binding object.

    Attributes:
        thing: the binding object.
        calls: (number of the virtual method, pointer argument) in order.
        answer: what every method returns.
    """

    def __init__(self, binding: Any) -> None:
        """Make an object of class `binding`; it is never freed."""
        self.calls: list[tuple[int, int | None]] = []
        self.answer: int | None = None
        self._methods = [_METHOD(self._noting(number)) for number in range(_METHODS)]
        pointers = [ctypes.cast(method, ctypes.c_void_p).value for method in self._methods]
        self._table = (ctypes.c_void_p * _METHODS)(*pointers)
        table = ctypes.addressof(self._table)
        # TensorRT's public classes are {virtual table, pointer to the real object}.
        self._real = ctypes.c_void_p(table)
        self._shell = (ctypes.c_void_p * 2)(table, ctypes.addressof(self._real))
        self.thing = binding.__new__(binding)
        # Python must not free what C++ has not allocated.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.thing))
        held = ctypes.c_void_p.from_address(id(self.thing) + _VALUE_OFFSET)
        held.value = ctypes.addressof(self._shell)

    def _noting(self, number: int) -> Any:
        def method(_: int, argument: int | None) -> int | None:
            self.calls.append((number, argument))
            return self.answer

        return method
