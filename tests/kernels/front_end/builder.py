"""Plays TensorRT's builder for one plugin layer, in the order the real one calls the plugin.

The order and the arguments are those that `tensorrt.plugin._plugin_class` expects. What the real
builder does by itself is refused here: a type combination of another length than the layer's, a
kernel that the engine could not launch.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from tests.kernels.front_end import expressions
from tests.kernels.front_end.expressions import DimensionExpr, ExprBuilder

Shape = list[int | str]


class BuildError(Exception):
    """The builder would refuse the layer, or build a wrong one."""


class Registry:
    """`trt.get_plugin_registry()`: creators by name, version and namespace."""

    def __init__(self) -> None:
        self.creators: dict[tuple[str, str, str], Any] = {}

    def register_creator(self, creator: Any, namespace: str = "") -> bool:
        self.creators[(creator.name, creator.plugin_version, namespace)] = creator
        return True

    def get_creator(self, name: str, version: str, namespace: str = "") -> Any:
        return self.creators.get((name, version, namespace))


def install(trt: Any) -> Registry:
    """Replace the names that need TensorRT's library, before the front end loads."""
    registry = Registry()
    trt.IDimensionExpr = expressions.DimensionExpr
    trt.DimsExprs = expressions.DimsExprs
    trt.ISymExpr = expressions.SymExprBase
    trt.get_plugin_registry = lambda: registry
    return registry


@dataclass(frozen=True)
class Layer:
    """A plugin layer of a network.

    Attributes:
        plugin_id: such as `trt_int8::int8_attention`.
        kinds: members of trt.DataType, of the inputs.
        shapes: of the inputs; a name stands for a size that varies.
        attributes: by name.
        bounds: smallest and largest number for each name.
    """

    plugin_id: str
    kinds: list[str]
    shapes: list[Shape]
    attributes: dict[str, int | float]
    bounds: dict[str, tuple[int, int]]


class Build:
    """One layer in one build, up to the point where the engine has its kernels."""

    def __init__(self, trt: Any, layer: Layer, request: str) -> None:
        """Create the plugin as `network.add_plugin(op(...), aot)` does."""
        self._trt, self._layer = trt, layer
        namespace, name = layer.plugin_id.split("::")
        front_end = importlib.import_module("tensorrt.plugin")
        operation = getattr(getattr(front_end.op, namespace), name)
        tensors = [trt.ITensor.__new__(trt.ITensor) for _ in layer.kinds]
        make = operation(*tensors, **layer.attributes)
        inputs, _, self.plugin = make(getattr(trt.QuickPluginCreationRequest, request))
        if len(inputs) != len(layer.kinds):
            raise BuildError(f"the layer has {len(inputs)} inputs, wanted {len(layer.kinds)}")
        self._prepare()

    def _prepare(self) -> None:
        trt, plugin, layer = self._trt, self.plugin, self._layer
        kinds = [getattr(trt.DataType, kind) for kind in layer.kinds]
        ranks = [len(shape) for shape in layer.shapes]
        self.output_kinds = list(plugin.get_output_data_types(kinds, ranks))
        exprs = []
        for shape in layer.shapes:
            exprs.append(expressions.DimsExprs(len(shape)))
            exprs[-1][:] = [expressions.dimension(size) for size in shape]
        self._inputs = exprs
        builder = ExprBuilder()
        self.output_shapes = plugin.get_output_shapes(exprs, [], builder)
        builder.close()
        if plugin.get_num_outputs() != len(self.output_shapes):
            raise BuildError(
                f"{len(self.output_shapes)} output shapes for {plugin.get_num_outputs()} outputs"
            )
        self._choose_types()

    def _choose_types(self) -> None:
        everything = self._descriptions()
        inputs, count = len(self._layer.kinds), len(everything)
        given = self.plugin.get_supported_format_combinations(everything, inputs)
        if len(given) % count:
            raise BuildError(f"{len(given)} type descriptors, wanted a multiple of {count}")
        wanted = [description.desc.type for description in everything]
        for first in range(0, len(given), count):
            combination = given[first : first + count]
            linear = all(part.format == self._trt.TensorFormat.LINEAR for part in combination)
            if [part.type for part in combination] == wanted and linear:
                break
        else:
            raise BuildError("no supported combination has the network's types and linear formats")
        self.plugin.configure_plugin(everything[:inputs], everything[inputs:])
        self.tactics = sorted(self.plugin.get_valid_tactics())

    def _descriptions(self) -> list[Any]:
        """Of inputs and outputs, with the sizes of the build's profile."""
        kinds = [getattr(self._trt.DataType, kind) for kind in self._layer.kinds]
        shapes = [*self._inputs, *self.output_shapes]
        pairs = zip([*kinds, *self.output_kinds], shapes, strict=True)
        return [self._describe(kind, shape) for kind, shape in pairs]

    def _describe(self, kind: Any, shape: Any) -> Any:
        trt = self._trt
        low, high = ({k: v[end] for k, v in self._layer.bounds.items()} for end in (0, 1))
        description = trt.DynamicPluginTensorDesc()
        description.desc.dims = trt.Dims(
            [size.get_constant_value() if size.is_constant() else -1 for size in shape]
        )
        description.min = trt.Dims([size.value(low) for size in shape])
        description.opt = description.max = trt.Dims([size.value(high) for size in shape])
        description.desc.type = kind
        description.desc.format = trt.TensorFormat.LINEAR
        return description

    def kernel(self, tactic: int) -> Kernel:
        """What the engine would hold for one tactic."""
        plugin = self.plugin.clone()
        plugin.set_tactic(tactic)
        everything = self._descriptions()
        params, extra, builder = LaunchParams(), SymbolSetter(), ExprBuilder()
        count = len(self._layer.kinds)
        plugin.get_launch_params(self._inputs, everything, count, params, extra, builder)
        builder.close()
        descriptions = [description.desc for description in everything]
        name, ptx = plugin.get_kernel(descriptions[:count], descriptions[count:])
        text = ptx.decode() if isinstance(ptx, bytes) else ptx
        return Kernel(name, text, params, [extra[index] for index in range(extra.nbSymExprs)])


class LaunchParams:
    """`trt.KernelLaunchParams`, which takes symbolic expressions."""

    grid_x: Any
    grid_y: Any
    grid_z: Any
    block_x: Any
    block_y: Any
    block_z: Any
    shared_mem: Any


class SymbolSetter(dict[int, Any]):
    """`trt.ISymExprs`: set the length, then each argument."""

    nbSymExprs = 0  # noqa: N815 (TensorRT's name)


@dataclass(frozen=True)
class Kernel:
    """A kernel in an engine: its text, and expressions for all that depends on sizes."""

    name: str
    ptx: str
    params: LaunchParams
    extra: list[Any]

    def launch(self, sizes: expressions.Sizes) -> dict[str, Any]:
        """The launch for real sizes, as the runtime would do it."""
        grid, block = (
            [self._value(getattr(self.params, f"{part}_{axis}"), sizes) for axis in "xyz"]
            for part in ("grid", "block")
        )
        return {
            "grid": grid,
            "block": block,
            "shared_bytes": self._value(self.params.shared_mem, sizes),
            "integers": [self._value(symbol, sizes) for symbol in self.extra],
        }

    @staticmethod
    def _value(symbol: Any, sizes: expressions.Sizes) -> int:
        if symbol.dtype.name != "INT32" or not isinstance(symbol.expr, DimensionExpr):
            raise BuildError(f"an argument is {symbol.dtype} {symbol.expr!r}, wanted INT32")
        return symbol.expr.value(sizes)
