"""Where batch and tokens are in a tensor, so that padding never enters its statistics."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from trt_int8.calibrate.values import Values
from trt_int8.errors import RangeError

# Batch and sequence of the two probes. The batch grows and the sequence shrinks, so that no axis of
# a few tokens more or fewer (the first one cut off, relative positions) looks like a batch axis.
PROBES = ((2, 7), (3, 5))

Shape = tuple[int, ...]
Layout = tuple[tuple[str, int], ...]


class Padding:
    """Which tokens of a batch are real: looked at once, used for every tensor.

    Attributes:
        mask: bool [B, S], False for padding.
        cut: bool [B, L], `mask` cut to the tokens that are real in some text.
        first: the first of these.
    """

    def __init__(self, mask: Tensor) -> None:
        """Look at a mask, bool [B, S]."""
        self.mask = mask
        used = torch.nonzero(mask.any(dim=0))
        self.first, last = (int(used[0]), int(used[-1])) if used.numel() else (0, 0)
        self.cut = mask[:, self.first : last + 1].contiguous()
        self._places: dict[Layout, tuple[Tensor, Tensor]] = {}

    @classmethod
    def of(cls, mask: Tensor | None) -> Padding | None:
        """The padding of a mask; None if it leaves nothing out."""
        return None if mask is None or bool(mask.all()) else cls(mask)

    def places(self, layout: Layout) -> tuple[Tensor, Tensor]:
        """Where real tokens are in a tensor.

        Args:
            layout: (kind, size) per axis, as in `TokenAxes`; one of them holds the texts.

        Returns:
            int64 [R], their places in the flattened tensor, and int64 [R], the text of each.
        """
        if layout not in self._places:
            real, texts = self._spread(layout)
            index = torch.nonzero(real.reshape(-1)).reshape(-1)
            self._places[layout] = (index, texts.reshape(-1)[index])
        return self._places[layout]

    def _spread(self, layout: Layout) -> tuple[Tensor, Tensor]:
        kinds, sizes = [kind for kind, _ in layout], [size for _, size in layout]
        texts, tokens = self.mask.shape
        owner = torch.arange(texts, device=self.mask.device)

        def along(values: Tensor, *axes: int) -> Tensor:
            shape = [size if axis in axes else 1 for axis, size in enumerate(sizes)]
            return values.reshape(shape).expand(sizes)

        if "both" in kinds:
            axis = kinds.index("both")
            return along(self.mask, axis), along(owner.repeat_interleave(tokens), axis)
        batch = kinds.index("batch")
        parts = sizes[batch] // texts  # a batch axis of B * N: N parts of each text
        real = along(self.mask.any(dim=1).repeat_interleave(parts), batch)
        for axis in (axis for axis, kind in enumerate(kinds) if kind == "tokens"):
            mask = self.mask.repeat_interleave(parts, dim=0)
            real = real & along(mask if batch < axis else mask.T, batch, axis)
        return real, along(owner.repeat_interleave(parts), batch)


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

    @classmethod
    def by_sizes(cls, shape: Shape, batch: int, tokens: int, other: frozenset[int]) -> TokenAxes:
        """Tell the axes by their sizes alone, for a model that takes one size of input only.

        Args:
            shape: of the tensor.
            batch: texts in the batch.
            tokens: tokens per text.
            other: sizes that something else in the model has: such an axis is not told.
        """
        kinds = []
        for axis, size in enumerate(shape):
            if size in (tokens, batch * tokens) and tokens in other:
                kinds.append("unknown")
            elif axis == 0 and size == batch * tokens and tokens > 1:
                kinds.append("both")
            elif axis == 0 and size % batch == 0:
                kinds.append("batch")
            else:
                kinds.append("tokens" if size == tokens else "fixed")
        return cls(tuple(kinds))

    def without(self, axes: tuple[int, ...]) -> TokenAxes:
        """The same, but of unknown meaning in some axes that hold texts."""
        kinds = [
            "unknown" if axis in axes and kind in ("batch", "both") else kind
            for axis, kind in enumerate(self.kinds)
        ]
        return TokenAxes(tuple(kinds))

    def values(self, name: str, x: Tensor, padding: Padding | None) -> Values:
        """The values that count, one row per token.

        A row is the last fixed axis. If tokens are last (keys, transposed for the scores), the
        two change places; if there are tokens twice (attention), queries are rows and keys are
        columns.

        Args:
            name: the tensor, for error messages.
            x: float tensor of any shape.
            padding: where it is; None for none.

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
        if padding is None or not {"tokens", "both", "unknown"} & set(kinds):
            return Values(x.reshape(-1, x.shape[-1]), has_channels=fixed)
        if "unknown" in kinds or {"both", "tokens"} <= set(kinds):
            raise RangeError(
                f"tensor {name!r} of shape {list(x.shape)} has an axis of unknown meaning",
                wanted="batch, tokens or a fixed size in each axis, to leave out padding",
                todo="leave pad_to out of the recipe, pass example= to use_calibrators, or pass"
                " arrays without padding",
            )
        if "batch" not in kinds and "both" not in kinds:
            # The same for all texts (a position bias): padding is in no place of its own.
            return Values(x.reshape(-1, x.shape[-1]), has_channels=fixed)
        return _select(x, kinds, padding)


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


def _select(x: Tensor, kinds: list[str], padding: Padding) -> Values:
    """The values of real tokens; padding in the batch is certain."""
    if kinds[-1] in ("both", "batch"):
        x, kinds = x.unsqueeze(-1), [*kinds, "single"]
    keys_last = kinds[-1] == "tokens"
    if keys_last:
        # What is padding in every text is most of a batch of short ones, and cheap to cut off.
        x = x.narrow(-1, padding.first, padding.cut.shape[1])
    # In the order of memory, the rows are a view.
    strides = x.stride()
    outer = sorted(range(x.ndim - 1), key=lambda axis: -strides[axis])
    rows = x.permute(*outer, x.ndim - 1).flatten(0, -2)
    index, texts = padding.places(tuple((kinds[axis], x.shape[axis]) for axis in outer))
    if not keys_last:
        return Values(rows, places=index, has_channels=kinds[-1] == "fixed")
    # Keys are columns: those of its own text count in each row.
    return Values(rows, places=index, owners=texts, real=padding.cut, has_channels=False)


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
