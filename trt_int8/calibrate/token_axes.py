"""Where batch and tokens are in a tensor, so that padding never enters its statistics."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trt_int8.calibrate.statistics import Values
from trt_int8.errors import RangeError

# Batch and sequence of the two probes. The batch grows and the sequence shrinks, so that no axis of
# a few tokens more or fewer (the first one cut off, relative positions) looks like a batch axis.
PROBES = ((2, 7), (3, 5))

Shape = tuple[int, ...]


@dataclass(frozen=True)
class TokenAxes:
    """What the axes of a tensor count, found by running the model on two sizes of input.

    Attributes:
        kinds: per axis `batch` (or a multiple of it, batch first), `tokens`, `both` (batch and
            tokens in one axis, batch first), `fixed`, or `unknown`.
    """

    kinds: tuple[str, ...]

    @classmethod
    def of(cls, shapes: tuple[Shape, Shape]) -> TokenAxes:
        """Compare the tensor's shapes in the two probes."""
        first, second = shapes
        if len(first) != len(second):
            return cls(("unknown",) * max(len(first), len(second)))
        return cls(tuple(_kind(sizes) for sizes in zip(first, second, strict=True)))

    def without(self, axes: tuple[int, ...]) -> TokenAxes:
        """The same, but of unknown meaning in some axes that hold texts."""
        kinds = [
            "unknown" if axis in axes and kind in ("batch", "both") else kind
            for axis, kind in enumerate(self.kinds)
        ]
        return TokenAxes(tuple(kinds))

    def values(self, name: str, x: Tensor, mask: Tensor | None) -> Values:
        """The values that count, one row per token.

        A row is the last fixed axis. If tokens are last (keys, transposed for the scores), the
        two change places; if there are tokens twice (attention), queries are rows and keys are
        columns.

        Args:
            name: the tensor, for error messages.
            x: float tensor of any shape.
            mask: bool [B, S], False for padding; None for no padding.

        Raises:
            RangeError: there is padding, and it cannot be told where it is in `x`.
        """
        x = x.detach().float()
        kinds = list(self.kinds) if len(self.kinds) == x.ndim else ["unknown"] * x.ndim
        if x.ndim == 0:
            return Values(x.reshape(1, 1))
        if kinds[-1] == "tokens" and kinds.count("tokens") == 1 and "fixed" in kinds[1:]:
            last = len(kinds) - 1 - kinds[::-1].index("fixed")
            x, kinds[last], kinds[-1] = x.transpose(last, -1), kinds[-1], kinds[last]
        fixed = kinds[-1] == "fixed"
        if mask is None or bool(mask.all()) or not {"tokens", "both", "unknown"} & set(kinds):
            return Values(x.reshape(-1, x.shape[-1]), has_channels=fixed)
        if "unknown" in kinds or {"both", "tokens"} <= set(kinds):
            raise RangeError(
                f"tensor {name!r} of shape {list(x.shape)} has an axis of unknown meaning",
                wanted="batch, tokens or a fixed size in each axis, to leave out padding",
                todo="leave pad_to out of the recipe, or pass example= to use_calibrators",
            )
        if "batch" not in kinds and "both" not in kinds:
            # The same for all texts (a position bias): padding is in no place of its own.
            return Values(x.reshape(-1, x.shape[-1]), has_channels=fixed)
        return _select(*_narrowed(x, kinds, mask.to(x.device)))


def _kind(sizes: tuple[int, int]) -> str:
    (batch_a, tokens_a), (batch_b, tokens_b) = PROBES
    a, b = sizes
    if a == b:
        return "fixed"
    if sizes == (tokens_a, tokens_b):
        return "tokens"
    if sizes == (batch_a * tokens_a, batch_b * tokens_b):
        return "both"
    if a % batch_a == 0 and a // batch_a * batch_b == b:
        return "batch"
    return "unknown"


def batch_is_inner(x: Tensor, texts: int) -> tuple[int, ...]:
    """Axes of a tensor of equal texts along which they are not the outermost part.

    [S * B, H] and [B * S, H] have the same shape; only the second has whole texts after each other.

    Args:
        x: any shape.
        texts: how many equal texts went into the model.
    """
    found = []
    for axis, size in enumerate(x.shape):
        if size % texts == 0 and size > texts:
            parts = x.detach().float().movedim(axis, 0).reshape(texts, size // texts, -1)
            # Rows of one matrix product may be added up in another order.
            if not torch.allclose(parts, parts[:1].expand_as(parts), rtol=1e-3, atol=1e-5):
                found.append(axis)
    return tuple(found)


def _narrowed(x: Tensor, kinds: list[str], mask: Tensor) -> tuple[Tensor, list[str], Tensor]:
    """Cut off what is padding in every text: cheap, and most of a batch of short texts."""
    used = torch.nonzero(mask.any(dim=0))
    if "both" in kinds or used.numel() == 0:
        return x, kinds, mask
    first, last = int(used[0]), int(used[-1])
    for axis, kind in enumerate(kinds):
        if kind == "tokens":
            x = x.narrow(axis, first, last - first + 1)
    return x, kinds, mask[:, first : last + 1]


def _select(x: Tensor, kinds: list[str], mask: Tensor) -> Values:
    counted = _spread(x.shape, kinds, mask)
    if kinds[-1] == "fixed":
        return Values(x[counted[..., 0]])
    rows = counted.any(dim=-1)
    return Values(
        x.masked_fill(~counted, 0.0)[rows], counted=counted.expand_as(x)[rows], has_channels=False
    )


def _spread(shape: Shape, kinds: list[str], mask: Tensor) -> Tensor:
    """Per value whether it counts; shape of the tensor (last axis 1 if it holds channels)."""
    last = 1 if kinds[-1] == "fixed" else shape[-1]
    counted = torch.ones((*shape[:-1], last), dtype=torch.bool, device=mask.device)
    for axis, kind in enumerate(kinds):
        if kind == "both":
            view = [1] * len(shape)
            view[axis] = shape[axis]
            counted = counted & mask.reshape(view)
        elif kind == "tokens":
            view = [1] * len(shape)
            view[axis] = shape[axis]
            if "batch" not in kinds:
                continue
            batch = kinds.index("batch")
            repeated = mask.repeat_interleave(shape[batch] // mask.shape[0], dim=0)
            view[batch] = shape[batch]
            part = repeated if batch < axis else repeated.T
            counted = counted & part.reshape(view)
    return counted


def shape_after(shapes: tuple[Shape, Shape], size: tuple[int, int]) -> int:
    """Number of elements for an input of another size, from the shapes in the two probes."""
    batch, tokens = size
    kinds = TokenAxes.of(shapes).kinds
    growth = {"fixed": 1.0, "tokens": tokens / PROBES[0][1], "batch": batch / PROBES[0][0]}
    growth["both"] = growth["unknown"] = batch * tokens / math.prod(PROBES[0])
    elements = 1.0
    for axis, kind in enumerate(kinds):
        elements *= growth[kind] * (shapes[0][axis] if axis < len(shapes[0]) else 1)
    return math.ceil(elements)
