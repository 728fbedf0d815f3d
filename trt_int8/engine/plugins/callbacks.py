"""The functions that `tensorrt.plugin` wants of a plugin, made from its signature.

The front end reads names and annotations of a function's parameters and then calls it with all of
them in order. So each function here takes what comes and carries the signature in `__signature__`.
Annotations must be classes, not text. Every function lists every attribute: a subset passes the
checks of `aot_impl` and then fails inside the build, which gives all of them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from trt_int8.engine.plugins import symbolic
from trt_int8.engine.plugins.driver import Pointers
from trt_int8.errors import PluginError
from trt_int8.plugins.calls import (
    PlannedKernel,
    PluginCall,
    check_tensors,
    output_kinds,
    output_sizes,
)
from trt_int8.plugins.compile import CompiledKernel
from trt_int8.plugins.kernel import KernelVariant
from trt_int8.plugins.signatures import Kind, PluginSignature

# As `tensorrt.plugin.AutoTuneCombination` spells them, and the members of tensorrt.DataType.
_TEXT_OF = {"int8": "INT8", "float16": "FP16", "float32": "FP32", "int32": "INT32"}
_MEMBER_OF = {"int8": "INT8", "float16": "HALF", "float32": "FLOAT", "int32": "INT32"}


class Launcher(Protocol):
    """Runs a compiled kernel on the card."""

    def launch(
        self, kernel: CompiledKernel, planned: PlannedKernel, pointers: Pointers, stream: int
    ) -> None:
        """Enqueue one launch of `planned`, all of whose sizes are numbers, on a CUDA stream."""


@dataclass(frozen=True)
class Tools:
    """What the functions of every plugin use.

    Attributes:
        plan: launch of a call.
        compile: PTX of a variant.
        launcher: for the JIT fallback.
        tactics: architectures whose kernels may be timed, read when a build begins.
    """

    plan: Callable[[PluginCall], PlannedKernel]
    compile: Callable[[KernelVariant], CompiledKernel]
    launcher: Launcher
    tactics: Callable[[], tuple[int, ...]]


@dataclass(frozen=True)
class Callbacks:
    """The functions of one plugin, with the signatures that `tensorrt.plugin` checks."""

    describe: Callable[..., Any]
    autotune: Callable[..., Any]
    ahead_of_time: Callable[..., Any]
    just_in_time: Callable[..., Any]


class _Maker:
    """One plugin; each method is called with tensors, attributes, and what its name adds."""

    def __init__(
        self, tensorrt: Any, front_end: Any, signature: PluginSignature, tools: Tools
    ) -> None:
        self._signature, self._tools, self._front_end = signature, tools, front_end
        self._types = {kind: getattr(tensorrt.DataType, _MEMBER_OF[kind]) for kind in _MEMBER_OF}

    def describe(self, *tensors: Any, **attributes: Any) -> Any:
        """Types and shapes of the outputs; also called with sizes that are not there yet."""
        ranks = [len(tensor.shape_expr) for tensor in tensors]
        check_tensors(self._signature, self._kinds(tensors), ranks)
        sizes = output_sizes(self._signature, [tuple(tensor.shape_expr) for tensor in tensors])
        kinds = output_kinds(self._signature, attributes)
        made = [
            self._front_end.from_shape_expr(size, self._types[kind])
            for size, kind in zip(sizes, kinds, strict=True)
        ]
        return tuple(made) if len(made) > 1 else made[0]

    def autotune(self, *arguments: Any) -> Any:
        """The network's own types, linear, with a tactic per architecture of kernels."""
        tensors, _, (outputs,) = self._split(arguments)
        types = ", ".join(_TEXT_OF[kind] for kind in self._kinds((*tensors, *outputs)))
        tactics = list(self._tools.tactics())
        return [self._front_end.AutoTuneCombination(types, "LINEAR", tactics)]

    def ahead_of_time(self, *arguments: Any) -> Any:
        """Kernel name, PTX, launch shape and scalar arguments for the engine."""
        tensors, attributes, (outputs, tactic) = self._split(arguments)
        sizes = tuple(symbolic.sizes_of(self._front_end, tensor) for tensor in tensors)
        planned = self._plan((*tensors, *outputs), sizes, attributes, tactic)
        self._check_bounds((*tensors, *outputs), attributes, tactic)
        kernel = self._tools.compile(planned.variant)
        grid = [symbolic.as_integer(self._front_end, size) for size in planned.grid]
        launch = self._front_end.KernelLaunchParams()
        launch.grid_x, launch.grid_y, launch.grid_z = grid
        launch.block_x, launch.shared_mem = planned.block, planned.shared_bytes
        # A plain int would become an expression without a width, which the build refuses.
        integers = self._front_end.SymIntExprs(len(planned.integers))
        for index, value in enumerate(planned.integers):
            integers[index] = symbolic.as_integer(self._front_end, value)
        return kernel.entry, kernel.ptx, launch, integers

    def just_in_time(self, *arguments: Any) -> None:
        """Launch the kernel on TensorRT's stream, with the sizes of this run."""
        tensors, attributes, (outputs, stream, tactic) = self._split(arguments)
        sizes = tuple(tuple(int(size) for size in tensor.shape) for tensor in tensors)
        planned = self._plan((*tensors, *outputs), sizes, attributes, tactic)
        pointers = Pointers(
            tuple(int(tensor.data_ptr) for tensor in tensors),
            tuple(int(tensor.data_ptr) for tensor in outputs),
        )
        kernel = self._tools.compile(planned.variant)
        self._tools.launcher.launch(kernel, planned, pointers, int(stream))

    def _check_bounds(self, tensors: Sequence[Any], attributes: Any, tactic: int) -> None:
        """Refuse a profile whose usual or largest sizes the kernel does not do."""
        shapes = [tensor.shape for tensor in tensors[: len(self._signature.inputs)]]
        for bound in ("opt", "max"):
            known = [getattr(shape, bound) if shape.is_dynamic else shape for shape in shapes]
            sizes = tuple(tuple(int(size) for size in shape) for shape in known)
            self._plan(tensors, sizes, attributes, tactic)

    def _plan(
        self, tensors: Sequence[Any], sizes: tuple[Any, ...], attributes: Any, tactic: int
    ) -> PlannedKernel:
        if tactic not in self._tools.tactics():
            raise PluginError(
                f"{self._signature.name}: TensorRT chose tactic {tactic}",
                wanted=f"one of {self._tools.tactics()}, as offered to it",
                todo="build without a timing cache of another version of this toolkit",
            )
        kinds = self._kinds(tensors)
        return self._tools.plan(PluginCall(self._signature, kinds, sizes, attributes, tactic))

    def _kinds(self, tensors: Sequence[Any]) -> tuple[Kind, ...]:
        names = {type_: kind for kind, type_ in self._types.items()}
        # `check_tensors` refuses what is not among them.
        return tuple(cast(Kind, names.get(tensor.dtype, str(tensor.dtype))) for tensor in tensors)

    def _split(self, arguments: Sequence[Any]) -> tuple[Sequence[Any], dict[str, Any], Any]:
        """Tensors, attributes by name, and what comes after them."""
        first = len(self._signature.inputs)
        last = first + len(self._signature.attributes)
        names = [attribute.name for attribute in self._signature.attributes]
        return (
            arguments[:first],
            dict(zip(names, arguments[first:last], strict=True)),
            arguments[last:],
        )


def make_callbacks(
    tensorrt: Any, front_end: Any, signature: PluginSignature, tools: Tools
) -> Callbacks:
    """The functions of one plugin.

    Args:
        tensorrt: the imported package.
        front_end: its module `tensorrt.plugin`.
        signature: the plugin.
        tools: how launches are planned, compiled and run.
    """
    maker = _Maker(tensorrt, front_end, signature, tools)
    descriptor, tensor = front_end.TensorDesc, front_end.Tensor
    several = tuple.__class_getitem__((descriptor,) * len(signature.outputs))
    described = descriptor if len(signature.outputs) == 1 else several
    ptx = tuple[str, str, front_end.KernelLaunchParams, front_end.SymIntExprs]
    return Callbacks(
        _typed(maker.describe, signature, descriptor, (), described),
        _typed(
            maker.autotune,
            signature,
            descriptor,
            ("outputs",),
            list[front_end.AutoTuneCombination],
        ),
        _typed(maker.ahead_of_time, signature, descriptor, ("outputs", "tactic"), ptx),
        _typed(maker.just_in_time, signature, tensor, ("outputs", "stream", "tactic"), None),
    )


def _typed(
    method: Callable[..., Any],
    signature: PluginSignature,
    tensor: Any,
    last: tuple[str, ...],
    returns: Any,
) -> Callable[..., Any]:
    """`method` with the parameters that the front end wants to see."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    pairs = [(spec.name, tensor) for spec in signature.inputs]
    pairs += [(attribute.name, attribute.kind) for attribute in signature.attributes]
    types = {"outputs": tuple[tensor], "stream": int, "tactic": int}
    pairs += [(name, types[name]) for name in last]
    parameters = [inspect.Parameter(name, kind, annotation=type_) for name, type_ in pairs]

    def function(*arguments: Any, **attributes: Any) -> Any:
        return method(*arguments, **attributes)

    function.__name__ = f"{signature.name}_{method.__name__}"
    function.__doc__ = method.__doc__
    function.__signature__ = inspect.Signature(parameters, return_annotation=returns)  # type: ignore[attr-defined]
    return function
