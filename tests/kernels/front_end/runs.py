"""Runs what an engine would hold in the PTX interpreter, as TensorRT's runtime would on a card."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tests.kernels.interpreter import Interpreter
from trt_int8.plugins.kernel import Argument, Input, KernelLaunch, KernelVariant, Output

_NUMPY: Final = {"INT8": np.int8, "HALF": np.float16}


@dataclass(frozen=True)
class EngineKernel:
    """One kernel of an engine, with its launch for the sizes of one run.

    Attributes:
        name: of the entry, as the engine has it.
        ptx: text.
        launch: grid, block, shared_bytes and integers.
    """

    name: str
    ptx: str
    launch: dict[str, Any]


def run(
    kernel: EngineKernel, inputs: tuple[NDArray[Any], ...], outputs: list[tuple[str, list[int]]]
) -> list[NDArray[Any]]:
    """The outputs; their types and shapes are those that the plugin told the builder.

    Raises:
        KernelFault: the launch does not fit the kernel, or the kernel breaks a rule.
        ValueError: block sizes along y or z.
    """
    launch = kernel.launch
    threads, *others = launch["block"]
    if others != [1, 1]:
        raise ValueError(f"the block is {launch['block']}, wanted threads along x only")
    arrays = [np.zeros(shape, _NUMPY[kind]) for kind, shape in outputs]
    arguments: list[Argument] = [
        *map(Input, inputs),
        *launch["integers"],
        *map(Output, arrays),
    ]
    x, y, z = launch["grid"]
    variant = KernelVariant("the engine's PTX", kernel.name, _target_sm(kernel.ptx))
    shape = KernelLaunch(variant, (x, y, z), threads, launch["shared_bytes"])
    Interpreter().run_text(kernel.ptx, shape, arguments)
    return arrays


def _target_sm(ptx: str) -> int:
    """The architecture that PTX text is written for, from its `.target` line."""
    found = re.search(r"^\.target sm_(\d+)", ptx, re.MULTILINE)
    if found is None:
        raise ValueError("the PTX has no .target line")
    return int(found.group(1))
