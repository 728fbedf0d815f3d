"""What a model reads: name, type and axes of each input."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from trt_int8.errors import GraphError

MASK_NAME = "attention_mask"
KNOWN_TYPES = ("float32", "int64", "int32", "bool")
_INTEGERS = ("int64", "int32")


@dataclass(frozen=True)
class ModelInput:
    """One input.

    Attributes:
        name: as the model calls it.
        dtype: NumPy's name of its type.
        axes: per axis a fixed size, the name of a dynamic axis, or None if it has no name. The
            first one counts samples.
    """

    name: str
    dtype: str
    axes: tuple[int | str | None, ...]

    def __str__(self) -> str:
        """As in messages: `pixel_values float32 [samples, 3, 224, 224]`."""
        sizes = ["samples", *(str(axis or "any") for axis in self.axes[1:])]
        return f"{self.name} {self.dtype} [{', '.join(sizes)}]"

    @property
    def base(self) -> str:
        """The name without the output number that TensorFlow adds (`input_ids:0`)."""
        return self.name.removesuffix(":0")

    @property
    def holds_tokens(self) -> bool:
        """Whether it is an integer per token, [B, S], as token ids and masks are."""
        return len(self.axes) == 2 and self.dtype in _INTEGERS

    @property
    def masks_tokens(self) -> bool:
        """Whether it says which tokens are real, [B, S]."""
        return self.base == MASK_NAME and len(self.axes) == 2 and self.dtype != "float32"


def graph_inputs(model: onnx.ModelProto) -> tuple[ModelInput, ...]:
    """The inputs of a graph, in its order; an input of unknown rank has no axes."""
    return tuple(
        ModelInput(
            name=value.name,
            dtype=str(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)),
            axes=tuple(
                dim.dim_value if dim.HasField("dim_value") else dim.dim_param or None
                for dim in value.type.tensor_type.shape.dim
            ),
        )
        for value in model.graph.input
    )


def check_inputs(inputs: Iterable[ModelInput], path: Path) -> None:
    """Refuse inputs that no data can be batched for.

    Raises:
        GraphError: an input has no batch axis or a type of its own, or first axes contradict.
    """
    for given in inputs:
        if not given.axes or given.dtype not in KNOWN_TYPES:
            kind = f"{given.dtype} with {len(given.axes)} axes"
            raise GraphError(
                f"input {given.name!r} of {path.name!r} is {kind}",
                wanted=f"{', '.join(KNOWN_TYPES)}, with the batch as its first axis",
                todo="export the model so, with everything else as a constant",
            )
    fixed_batch(inputs)


def fixed_batch(inputs: Iterable[ModelInput]) -> int | None:
    """The batch size that the inputs ask for; None if any will do.

    Raises:
        GraphError: they ask for different ones.
    """
    sizes = {given.axes[0]: given.name for given in inputs if given.axes}
    fixed = {size: name for size, name in sizes.items() if isinstance(size, int)}
    if len(fixed) > 1:
        raise GraphError(
            f"the first axes of the inputs {sorted(fixed.values())} are {sorted(fixed)}",
            wanted="one batch size, the first axis of each input",
            todo="export the model with the batch as the first axis of every input",
        )
    return next(iter(fixed), None)


def token_axes(inputs: Iterable[ModelInput]) -> dict[str, int]:
    """Per input the dynamic axis that counts the tokens of a text, where it has one.

    That is the second axis of the attention mask, else of the first input with token ids; an axis
    of the same name in another input (`inputs_embeds`) is the same one.
    """
    inputs = tuple(inputs)
    holders = [i for i in inputs if i.masks_tokens] or [i for i in inputs if i.holds_tokens]
    if not holders or isinstance(holders[0].axes[1], int):
        return {}
    name = holders[0].axes[1]
    found = {}
    for given in inputs:
        if name is not None and name in given.axes[1:]:
            found[given.name] = given.axes.index(name, 1)
        elif given.holds_tokens and given.axes[1] is None and name is None:
            found[given.name] = 1
    return found


def example_array(given: ModelInput, sizes: dict[str, int]) -> np.ndarray:
    """Ones (integers) or seeded noise (floats) of the right shape; `sizes` of dynamic axes."""
    shape = [axis if isinstance(axis, int) else sizes[str(axis)] for axis in given.axes]
    if given.dtype == "float32":
        return np.random.default_rng(0).standard_normal(shape, np.float32)
    return np.ones(shape, given.dtype)
