"""One call of a plugin, and the kernel launch that carries it out.

TensorRT asks for a launch when it builds, with sizes that are expressions, and the JIT fallback
asks with numbers. Both go through `plan_call`, so a `Size` may be either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trt_int8.errors import PluginError
from trt_int8.plugins.kernel import KernelVariant
from trt_int8.plugins.signatures import Kind, PluginSignature, TensorSpec

# An int, or an expression that knows + - * // with ints and with its like.
Size = Any
Sizes = tuple[Size, ...]


@dataclass(frozen=True)
class PluginCall:
    """What a plugin is asked to do.

    Attributes:
        signature: which plugin.
        kinds: element types of the inputs, then of the outputs.
        sizes: dimensions of each input; an int wherever TensorRT knows the number.
        attributes: value of every attribute.
        sm: architecture of the kernel, one of `KERNEL_SMS`.
    """

    signature: PluginSignature
    kinds: tuple[Kind, ...]
    sizes: tuple[Sizes, ...]
    attributes: Mapping[str, int | float]
    sm: int

    def sizes_of(self, name: str) -> Sizes:
        """Dimensions of the input called `name`."""
        return self.sizes[self._position(name)]

    def kind_of(self, name: str) -> Kind:
        """Element type of the input or output called `name`."""
        return self.kinds[self._position(name)]

    @property
    def all_known(self) -> bool:
        """Whether every size is a number."""
        return all(isinstance(size, int) for sizes in self.sizes for size in sizes)

    def known_size(self, name: str, axis: int) -> int:
        """One dimension that the kernel is compiled for.

        Raises:
            PluginError: TensorRT does not know it when it builds.
        """
        size = self.sizes_of(name)[axis]
        if isinstance(size, int) and size > 0:
            return size
        raise PluginError(
            f"{self.signature.name}: dimension {axis} of {name!r} is not known at build time",
            wanted="a fixed number there (only batch and sequence length may vary)",
            todo="export the model with that size fixed, or leave this plugin out (--plugins)",
        )

    def _position(self, name: str) -> int:
        names = [spec.name for spec in (*self.signature.inputs, *self.signature.outputs)]
        return names.index(name)


@dataclass(frozen=True)
class PlannedKernel:
    """The launch of one call.

    Attributes:
        variant: the kernel.
        grid: blocks along x, y, z.
        block: threads of a block, along x.
        shared_bytes: dynamic shared memory of a block.
        integers: what the kernel takes between its inputs and its outputs; floats as their bits.
    """

    variant: KernelVariant
    grid: tuple[Size, Size, Size]
    block: int
    shared_bytes: int
    integers: tuple[Size, ...]


def check_tensors(signature: PluginSignature, kinds: Sequence[str], ranks: Sequence[int]) -> None:
    """Refuse inputs that no form of the plugin takes.

    Args:
        signature: the plugin.
        kinds: element types of the inputs.
        ranks: their numbers of dimensions.

    Raises:
        PluginError: an input has another type or number of dimensions than its kernel reads.
    """
    for spec, kind, rank in zip(signature.inputs, kinds, ranks, strict=True):
        rank_fits = rank > 0 if spec.rank is None else rank == spec.rank
        if kind not in spec.kinds or not rank_fits:
            raise PluginError(
                f"{signature.name}: input {spec.name!r} is {kind} with {rank} dimensions",
                wanted=_describe(spec),
                todo="fuse the model again (--plugins), or leave this plugin out",
            )


def output_sizes(signature: PluginSignature, sizes: Sequence[Sizes]) -> tuple[Sizes, ...]:
    """Dimensions of the outputs, from those of the inputs.

    Attention: [B, S_q, N, D] as q has them, [B, S, N, D] of packed [B, S, 3, N, D], [T, N, D] of
    ragged tokens. The others: as x.
    """
    first = tuple(sizes[0])
    if "packed" in signature.features:
        first = (*first[:2], *first[3:])
    return (first,) * len(signature.outputs)


def output_kinds(signature: PluginSignature, attributes: Mapping[str, Any]) -> tuple[Kind, ...]:
    """Element types of the outputs; attention's follows its attribute `half_output`."""
    last = 1 if attributes.get("half_output") else 0
    return tuple(spec.kinds[last if len(spec.kinds) > 1 else 0] for spec in signature.outputs)


def _describe(spec: TensorSpec) -> str:
    rank = "at least 1 dimension" if spec.rank is None else f"{spec.rank} dimensions"
    return f"{' or '.join(spec.kinds)} with {rank}"
