"""Run the PTX text that ships: the C++ interpreter of `ptxvm/`, with every access checked."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from tests.kernels.interpreter_build import library
from tests.kernels.report import KernelFault, RunReport, Traffic
from trt_int8.plugins.compile import compile_ptx
from trt_int8.plugins.kernel import Argument, Input, KernelLaunch, Output

POISON_BYTE = 0xA5
_INPUT, _OUTPUT, _INTEGER = 0, 1, 2


class _Launch(ctypes.Structure):
    """`ptxvm::Launch`."""

    _fields_ = (
        ("grid", ctypes.c_int * 3),
        ("block", ctypes.c_int),
        ("shared_bytes", ctypes.c_int),
        ("instruction_limit", ctypes.c_uint64),
    )


class _Argument(ctypes.Structure):
    """`ptxvm::PlainArgument`."""

    _fields_ = (
        ("kind", ctypes.c_int32),
        ("value", ctypes.c_int32),
        ("data", ctypes.c_void_p),
        ("size", ctypes.c_uint64),
    )


class Interpreter:
    """Executes PTX warp by warp, blocks one after another.

    Args:
        instruction_limit: warp instructions of a launch after which it counts as endless.
    """

    def __init__(self, instruction_limit: int = 4_000_000_000) -> None:
        self._instruction_limit = instruction_limit

    def run(self, launch: KernelLaunch, arguments: Sequence[Argument]) -> RunReport:
        """Compile the launch's variant as it ships and run it; fills the Output arrays.

        Raises:
            KernelFault: the kernel broke a rule, or its text has an instruction unknown here.
        """
        return self.run_text(compile_ptx(launch.variant).ptx, launch, arguments)

    def run_text(self, ptx: str, launch: KernelLaunch, arguments: Sequence[Argument]) -> RunReport:
        """Run a PTX text; of `launch.variant` only the entry's name counts.

        Raises:
            KernelFault: as `run`.
        """
        plain = (_Argument * len(arguments))(*map(_plain, arguments))
        shape = _Launch(
            (ctypes.c_int * 3)(*launch.grid),
            launch.block,
            launch.shared_bytes,
            self._instruction_limit,
        )
        answer = _call(ptx, launch.variant.entry, shape, plain)
        if "fault" in answer:
            raise KernelFault(answer["fault"], answer["message"])
        return RunReport(
            layer="interpreter",
            instructions=answer["instructions"],
            instructions_by_class=answer["instructions_by_class"],
            instructions_by_line=answer["instructions_by_line"],
            shared=_traffic(answer["shared"]),
            shared_by_line=_traffic(answer["shared_by_line"]),
            global_=_traffic(answer["global"]),
        )


def _plain(argument: Argument) -> _Argument:
    """The C form of an argument; an output is poisoned, so that no old answer can pass."""
    if isinstance(argument, (Input, Output)):
        array = argument.array
        if not array.flags.c_contiguous:
            raise KernelFault("launch", f"an array of shape {array.shape} is not C-contiguous")
        if isinstance(argument, Output):
            array.reshape(-1).view(np.uint8)[:] = POISON_BYTE
        kind = _INPUT if isinstance(argument, Input) else _OUTPUT
        return _Argument(kind, 0, array.ctypes.data, array.nbytes)
    if not -(2**31) <= argument < 2**32:
        raise KernelFault("launch", f"the integer argument {argument} does not fit in 32 bits")
    return _Argument(_INTEGER, argument, None, 0)


def _traffic(counts: Mapping[str, Sequence[int]]) -> dict[str, Traffic]:
    return {name: Traffic(requests, units) for name, (requests, units) in counts.items()}


def _call(ptx: str, entry: str, launch: _Launch, arguments: ctypes.Array[_Argument]) -> Any:
    machine = _load()
    address = machine.ptxvm_run(
        ptx.encode(), entry.encode(), ctypes.byref(launch), arguments, len(arguments)
    )
    try:
        return json.loads(ctypes.string_at(address).decode())
    finally:
        machine.ptxvm_free(ctypes.c_void_p(address))


@cache
def _load() -> ctypes.CDLL:
    machine = ctypes.CDLL(str(library()))
    machine.ptxvm_run.restype = ctypes.c_void_p
    machine.ptxvm_free.restype = None
    return machine
