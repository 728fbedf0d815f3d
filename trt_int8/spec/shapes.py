"""Shape profiles: the smallest, most common and largest input an engine serves."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydantic import model_validator

from trt_int8.errors import ShapeError
from trt_int8.spec.base import Frozen

DEFAULT_SHAPES = "batch=1:8:32,seq=16:128:384"
_ALIASES = {
    "batch": "batch",
    "batch_size": "batch",
    "b": "batch",
    "n": "batch",
    "seq": "seq",
    "sequence": "seq",
    "seq_len": "seq",
    "seq_length": "seq",
    "sequence_length": "seq",
    "s": "seq",
    "max_seq_len": "seq",
}
# At most 9 digits: TensorRT refuses tensors of 2^31 elements and more.
_ITEM = re.compile(r"([A-Za-z_][\w.]*)=([0-9]{1,9})(?::([0-9]{1,9}):([0-9]{1,9}))?")


class DimRange(Frozen):
    """Sizes of one dynamic axis: min <= opt <= max, all > 0."""

    min: int
    opt: int
    max: int

    @model_validator(mode="after")
    def _ordered(self) -> DimRange:
        if not 0 < self.min <= self.opt <= self.max:
            raise ShapeError(
                f"shape {self.min}:{self.opt}:{self.max}",
                wanted="0 < min <= opt <= max",
                todo="write it as min:opt:max, for example seq=16:128:384",
            )
        return self

    def __str__(self) -> str:
        """As on the command line."""
        return f"{self.min}:{self.opt}:{self.max}"


class ShapeProfile(Frozen):
    """Ranges by axis name; the names `batch` and `seq` match the usual spellings.

    Attributes:
        dims: by axis name.
        asked: the user named these axes, so each must be in the model; False for the default.
    """

    dims: dict[str, DimRange]
    asked: bool = True

    def of(self, axis: str) -> DimRange | None:
        """The range of an axis by its name in the model, or None."""
        key = canonical_axis(axis)
        return self.dims.get(key) or self.dims.get(axis)

    def with_limit(self, axis: str, limit: int) -> ShapeProfile:
        """The same profile with one axis cut to `limit`."""
        old = self.dims[axis]
        new = DimRange(min=min(old.min, limit), opt=min(old.opt, limit), max=min(old.max, limit))
        return self.model_copy(update={"dims": {**self.dims, axis: new}})

    def __str__(self) -> str:
        """As on the command line."""
        return ",".join(f"{name}={dim}" for name, dim in self.dims.items())


def canonical_axis(name: str) -> str:
    """`batch` or `seq` for the usual spellings of those axes, else the name itself."""
    return _ALIASES.get(name.lower(), name)


def default_profile() -> ShapeProfile:
    """`DEFAULT_SHAPES`; a model may lack its axes."""
    return parse_shapes(DEFAULT_SHAPES).model_copy(update={"asked": False})


def parse_shapes(text: str) -> ShapeProfile:
    """Read "batch=1:8:32,seq=16:128:384"; "seq=128" means one fixed size.

    Raises:
        ShapeError: an item is malformed, repeated, or not min <= opt <= max.
    """
    dims: dict[str, DimRange] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        match = _ITEM.fullmatch(item)
        if match is None:
            raise ShapeError(
                f"--shapes item {item!r}",
                wanted="axis=min:opt:max or axis=size, whole numbers below 10^9",
                todo=f"write it like {DEFAULT_SHAPES!r}",
            )
        axis, low, opt, high = match.groups()
        key = canonical_axis(axis)
        if key in dims:
            raise ShapeError(
                f"--shapes names the axis {key!r} twice", wanted="each once", todo="remove one"
            )
        dims[key] = DimRange(min=int(low), opt=int(opt or low), max=int(high or low))
    return ShapeProfile(dims=dims)


class InputShape(Frozen):
    """One network input bound to a profile: int sizes per axis."""

    name: str
    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


def bind_shapes(
    inputs: Mapping[str, tuple[int | str | None, ...]], profile: ShapeProfile
) -> tuple[InputShape, ...]:
    """Fill the dynamic axes of each input from the profile.

    Args:
        inputs: per input its axes: a fixed size, or the name of a dynamic axis.
        profile: ranges by axis name. A first axis without a usual name counts as `batch`, such a
            second one as `seq`.

    Raises:
        ShapeError: a dynamic axis has no range, or an axis asked for is nowhere in the model.
    """
    bound, used = [], set()
    for name, axes in inputs.items():
        sizes = []
        for index, axis in enumerate(axes):
            if isinstance(axis, int):
                sizes.append(DimRange(min=axis, opt=axis, max=axis))
                continue
            found, key = _range_of(axis, index, profile)
            if found is None:
                raise ShapeError(
                    f"input {name!r} has a dynamic axis {axis or index!r} without a range",
                    wanted=f"a range for each of {[a for a in axes if not isinstance(a, int)]}",
                    todo=f"add {axis or 'its name'}=min:opt:max to --shapes",
                )
            used.add(key)
            sizes.append(found)
        bound.append(
            InputShape(
                name=name,
                min=tuple(s.min for s in sizes),
                opt=tuple(s.opt for s in sizes),
                max=tuple(s.max for s in sizes),
            )
        )
    _refuse_unused(inputs, profile, used)
    return tuple(bound)


def _range_of(axis: str | None, index: int, profile: ShapeProfile) -> tuple[DimRange | None, str]:
    positional = {0: "batch", 1: "seq"}.get(index, "")
    name = axis or positional
    found = profile.of(name)
    if found is None and canonical_axis(name) not in ("batch", "seq"):
        name, found = positional, profile.of(positional) if positional else None
    return found, canonical_axis(name)


def _refuse_unused(
    inputs: Mapping[str, tuple[int | str | None, ...]], profile: ShapeProfile, used: set[str]
) -> None:
    unknown = [axis for axis in profile.dims if axis not in used]
    if profile.asked and unknown:
        axes = sorted({str(a) for shape in inputs.values() for a in shape if isinstance(a, str)})
        raise ShapeError(
            f"--shapes names the axes {unknown}",
            wanted=f"dynamic axes of this model: {axes}",
            todo="correct the name, or leave it out",
        )


def describe(shapes: tuple[InputShape, ...]) -> str:
    """The profile in one line: "input_ids 1x16 / 8x128 / 32x384 (min / opt / max)"."""
    texts = []
    for shape in shapes:
        sizes = ("x".join(map(str, dims)) for dims in (shape.min, shape.opt, shape.max))
        texts.append(f"{shape.name} {' / '.join(sizes)}")
    return "; ".join(texts) + " (min / opt / max)"
