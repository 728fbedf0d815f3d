"""What a model reads and writes: names, types, axes and the sizes it takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from trt_int8.errors import RequestError
from trt_int8.model.inputs import ModelInput, token_axes
from trt_int8.spec.shapes import Profile

Axis = int | str | None
Shape = tuple[int, ...]
# TensorRT and ONNX Runtime count the elements of a tensor in 31 bits.
ANY = 2**31 - 1


@dataclass(frozen=True)
class TensorInfo:
    """One input or output.

    Attributes:
        name: as the graph has it.
        dtype: NumPy's name of its type.
        axes: per axis a fixed size, or the name of a dynamic axis (None: without a name).
        smallest: least size per axis; empty for outputs.
        largest: greatest size per axis; empty for outputs.
    """

    name: str
    dtype: str
    axes: tuple[Axis, ...]
    smallest: Shape = ()
    largest: Shape = ()

    def __str__(self) -> str:
        """As in messages: `input_ids int64 [batch 1..32, sequence 16..384]`."""
        return f"{self.name} {self.dtype} [{', '.join(map(self._axis, range(len(self.axes))))}]"

    def _axis(self, index: int) -> str:
        axis = self.axes[index]
        if isinstance(axis, int) or not self.smallest:
            return str("any" if axis is None else axis)
        most = "" if self.largest[index] == ANY else self.largest[index]
        return f"{axis or 'any'} {self.smallest[index]}..{most}"


@dataclass(frozen=True)
class Signature:
    """Everything a request is checked against.

    Attributes:
        inputs: in the order of the graph.
        outputs: in the order of the graph.
        token_axes: per input the axis that counts tokens, where it has one: a dynamic one, or one
            of fixed size if the model has a mask.
        mask: the input that marks real tokens; None if the model has none, and then nothing may be
            padded along the token axis.
        profiles: ranges of sizes that the engine takes; a request must fit one of them whole.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    token_axes: Mapping[str, int]
    mask: str | None
    profiles: tuple[Profile, ...] = ()

    @property
    def token_axis_name(self) -> str | None:
        """Name of the axis that counts tokens, as outputs repeat it; None without a name."""
        for given in self.inputs:
            axis = (
                given.axes[self.token_axes[given.name]] if given.name in self.token_axes else None
            )
            if isinstance(axis, str):
                return axis
        return None

    @property
    def fixed_tokens(self) -> int | None:
        """Tokens of a model that takes texts of one padded length only; None if it takes others."""
        for given in self.inputs:
            if given.name in self.token_axes:
                axis = given.axes[self.token_axes[given.name]]
                return axis if isinstance(axis, int) else None
        return None

    @property
    def batch_axis_name(self) -> str | None:
        """Name of the axis that counts samples; None if it is fixed or has no name."""
        axis = self.inputs[0].axes[0] if self.inputs and self.inputs[0].axes else None
        return axis if isinstance(axis, str) else None

    def profile_of(self, shapes: Mapping[str, Shape]) -> int:
        """Index of the first profile that holds the shapes of all inputs; 0 without profiles.

        Raises:
            RequestError: none holds them.
        """
        for index, profile in enumerate(self.profiles):
            if all(_fits(shapes[one.name], one.min, one.max) for one in profile):
                return index
        if not self.profiles:
            return 0
        given = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
        raise RequestError(
            f"the inputs have the shapes {given}",
            wanted=" or ".join(
                ", ".join(f"{one.name} {list(one.min)} to {list(one.max)}" for one in profile)
                for profile in self.profiles
            ),
            todo="send such sizes, or build the bundle with other --shapes",
        )


def _fits(shape: Shape, smallest: Iterable[int], largest: Iterable[int]) -> bool:
    lower, upper = tuple(smallest), tuple(largest)
    inside = (low <= size <= high for low, size, high in zip(lower, shape, upper, strict=False))
    return len(shape) == len(lower) and all(inside)


def read_signature(source: bytes | Path, profiles: tuple[Profile, ...] = ()) -> Signature:
    """Read the inputs and outputs of an ONNX file; sizes of dynamic axes come from `profiles`."""
    data = source.read_bytes() if isinstance(source, Path) else source
    model = onnx.load_model_from_string(data)
    constants = {each.name for each in model.graph.initializer}
    inputs = tuple(
        _with_range(_tensor(value), profiles)
        for value in model.graph.input
        if value.name not in constants
    )
    known = tuple(ModelInput(one.name, one.dtype, one.axes) for one in inputs)
    return Signature(
        inputs=inputs,
        outputs=tuple(_tensor(value) for value in model.graph.output),
        token_axes=token_axes(known) or _fixed_token_axes(known),
        mask=next((one.name for one in known if one.masks_tokens), None),
        profiles=profiles,
    )


def _fixed_token_axes(inputs: tuple[ModelInput, ...]) -> dict[str, int]:
    """The second axis of the mask, and of every other input that has an integer per token."""
    length = next((one.axes[1] for one in inputs if one.masks_tokens), None)
    if not isinstance(length, int):
        return {}
    holding = (one for one in inputs if one.holds_tokens or one.masks_tokens)
    return {one.name: 1 for one in holding if one.axes[1] == length}


def _tensor(value: onnx.ValueInfoProto) -> TensorInfo:
    kind = value.type.tensor_type
    axes = tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
        for dim in kind.shape.dim
    )
    return TensorInfo(value.name, str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)), axes)


def _with_range(given: TensorInfo, profiles: tuple[Profile, ...]) -> TensorInfo:
    shapes = [one for profile in profiles for one in profile if one.name == given.name]
    fixed = tuple(axis if isinstance(axis, int) else 0 for axis in given.axes)
    if not shapes:
        smallest = tuple(axis or 1 for axis in fixed)
        largest = tuple(axis or ANY for axis in fixed)
    else:
        smallest = tuple(min(sizes) for sizes in zip(*(one.min for one in shapes), strict=True))
        largest = tuple(max(sizes) for sizes in zip(*(one.max for one in shapes), strict=True))
    return TensorInfo(given.name, given.dtype, given.axes, smallest, largest)
