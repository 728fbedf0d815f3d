"""CUDA's driver API through cuda-python, each call checked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trt_int8 import optional
from trt_int8.errors import TrtInt8Error, first_line

DRIVER_MODULE = "cuda.bindings.driver"


class CudaDriver:
    """The driver module of cuda-python, imported at the first call.

    Handles and device pointers go in as integers or as cuda-python's own objects.
    """

    def __init__(self, failed: Callable[[str, str], TrtInt8Error], module: Any = None) -> None:
        """Prepare; nothing is imported yet.

        Args:
            failed: makes the error of a failed call from its name and the driver's reason.
            module: another driver module in tests.
        """
        self._failed = failed
        self._module = module

    @property
    def module(self) -> Any:
        """The driver module, for its enums.

        Raises:
            MissingPackageError: cuda-python is not installed.
            TrtInt8Error: it cannot be loaded, as `failed` makes it.
        """
        if self._module is None:
            try:
                self._module = optional.load(DRIVER_MODULE)
            except ImportError as error:  # it is there, but broken
                raise self._failed(f"import {DRIVER_MODULE}", first_line(error)) from error
        return self._module

    def call(self, name: str, *arguments: Any) -> Any:
        """One call; gives its first result after the error code, or None.

        Raises:
            TrtInt8Error: the call failed or there is no driver library, as `failed` makes it.
            MissingPackageError: cuda-python is not installed.
        """
        try:
            code, *results = getattr(self.module, name)(*arguments)
        except RuntimeError as error:  # there is no driver library at all
            raise self._failed(name, first_line(error).rstrip(".")) from error
        except (KeyError, ValueError) as error:  # the driver's code is newer than cuda-python
            if isinstance(error, ValueError) and "CUresult" not in str(error):
                raise
            unknown = f"an error that this cuda-python has no name for ({first_line(error)})"
            raise self._failed(name, unknown) from error
        if int(code) != 0:
            raise self._failed(name, str(getattr(code, "name", code)))
        return results[0] if results else None
