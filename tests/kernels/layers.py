"""Run a kernel launch on one of the two CPU layers, by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from tests.kernels.emulator import Emulator
from tests.kernels.interpreter import Interpreter
from tests.kernels.report import RunReport
from trt_int8.plugins.kernel import Argument, KernelLaunch

Layer = Literal["emulator", "interpreter"]
LAYERS: tuple[Layer, ...] = ("emulator", "interpreter")


def run_on(
    layer: Layer, launch: KernelLaunch, arguments: Sequence[Argument], seed: int = 0
) -> RunReport:
    """Run `launch` on `layer`; the layer poisons and then fills the Output arrays.

    Args:
        layer: "emulator" (the CUDA source under g++) or "interpreter" (its PTX text).
        launch: kernel, grid, block and dynamic shared memory.
        arguments: in the order of the kernel's parameters.
        seed: order in which the emulator runs threads; the interpreter has one order.

    Raises:
        KernelFault: the kernel broke a rule that the layer checks.
    """
    if layer == "emulator":
        return Emulator().run(launch, arguments, seed=seed)
    return Interpreter().run(launch, arguments)
