"""Shape profiles: the smallest, most common and largest input an engine serves."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence

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
_AXIS = re.compile(r"([A-Za-z_][\w.]*)=(.+)")
# At most 9 digits: TensorRT refuses tensors of 2^31 elements and more.
_SIZES = re.compile(r"([0-9]{1,9})(?::([0-9]{1,9}):([0-9]{1,9}))?")
# Every profile has kernels of its own, which cost engine size and build time (docs/profiles.md).
MAX_PROFILES = 16


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
        dims: by axis name; with `parts`, the least range around all of them.
        asked: the user named these axes, so each must be in the model; False for the default.
        parts: the ranges of each optimization profile, if there are several; all have the same
            axes.
    """

    dims: dict[str, DimRange]
    asked: bool = True
    parts: tuple[dict[str, DimRange], ...] = ()

    def of(self, axis: str) -> DimRange | None:
        """The range of an axis by its name in the model, or None."""
        key = canonical_axis(axis)
        return self.dims.get(key) or self.dims.get(axis)

    def profiles(self) -> tuple[ShapeProfile, ...]:
        """Each optimization profile by itself, in the order the engine has them."""
        if not self.parts:
            return (self,)
        return tuple(ShapeProfile(dims=dims, asked=self.asked) for dims in self.parts)

    def with_limit(self, axis: str, limit: int) -> ShapeProfile:
        """The same with one axis cut to `limit`; a profile that lies wholly above it goes."""
        kept = [part for part in self.parts if part[axis].min <= limit]
        cut = tuple({**part, axis: _cut(part[axis], limit)} for part in kept)
        update = {"dims": {**self.dims, axis: _cut(self.dims[axis], limit)}, "parts": cut}
        return self.model_copy(update=update)

    def __str__(self) -> str:
        """As on the command line; several profiles with a blank between them."""
        texts = (
            ",".join(f"{name}={dim}" for name, dim in each.dims.items()) for each in self.profiles()
        )
        return " ".join(texts)


def _cut(dim: DimRange, limit: int) -> DimRange:
    return DimRange(min=min(dim.min, limit), opt=min(dim.opt, limit), max=min(dim.max, limit))


def canonical_axis(name: str) -> str:
    """`batch` or `seq` for the usual spellings of those axes, else the name itself."""
    return _ALIASES.get(name.lower(), name)


def default_profile() -> ShapeProfile:
    """`DEFAULT_SHAPES`; a model may lack its axes."""
    return parse_shapes(DEFAULT_SHAPES).model_copy(update={"asked": False})


def parse_shapes(text: str, *more: str) -> ShapeProfile:
    """Read "batch=1:8:32,seq=16:128:384"; "seq=128" means one fixed size.

    Several profiles: one text for each, or several ranges of an axis with `|` between them,
    "seq=16:64:128|129:256:384" (if two axes have several, each is combined with each).

    Raises:
        ShapeError: an item is malformed, repeated, or not min <= opt <= max; the profiles have
            different axes, two are equal, or there are more than `MAX_PROFILES`.
    """
    parts = [part for one in (text, *more) for part in _parts(one)]
    _check_parts(parts)
    if len(parts) == 1:
        return ShapeProfile(dims=parts[0])
    return ShapeProfile(dims=_around(parts), parts=tuple(parts))


def _parts(text: str) -> list[dict[str, DimRange]]:
    """The profiles of one `--shapes`."""
    dims: dict[str, list[DimRange]] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        match = _AXIS.fullmatch(item)
        sizes = [_SIZES.fullmatch(one.strip()) for one in match[2].split("|")] if match else [None]
        if match is None or None in sizes:
            raise ShapeError(
                f"--shapes item {item!r}",
                wanted="axis=min:opt:max or axis=size, whole numbers below 10^9",
                todo=f"write it like {DEFAULT_SHAPES!r}; several profiles like"
                " 'seq=16:64:128|129:256:384'",
            )
        key = canonical_axis(match[1])
        if key in dims:
            raise ShapeError(
                f"--shapes names the axis {key!r} twice", wanted="each once", todo="remove one"
            )
        dims[key] = [_range(one) for one in sizes if one is not None]
    count = 1
    for choices in dims.values():
        count *= len(choices)
    _check_count(count)
    return [dict(zip(dims, chosen, strict=True)) for chosen in itertools.product(*dims.values())]


def _range(match: re.Match[str]) -> DimRange:
    low, opt, high = match.groups()
    return DimRange(min=int(low), opt=int(opt or low), max=int(high or low))


def _check_parts(parts: Sequence[dict[str, DimRange]]) -> None:
    _check_count(len(parts))
    for number, part in enumerate(parts[1:], 2):
        if set(part) != set(parts[0]):
            raise ShapeError(
                f"profile {number} of --shapes has the axes {sorted(part)}, the first"
                f" {sorted(parts[0])}",
                wanted="the same axes in every profile",
                todo="give each --shapes all axes",
            )
        if part in parts[: number - 1]:
            raise ShapeError(
                f"profile {number} of --shapes is there twice", wanted="each once", todo="remove it"
            )


def _check_count(count: int) -> None:
    if count > MAX_PROFILES:
        raise ShapeError(
            f"--shapes asks for {count} profiles",
            wanted=f"at most {MAX_PROFILES} (every profile adds kernels to the engine)",
            todo="give fewer ranges",
        )


def _around(parts: Sequence[dict[str, DimRange]]) -> dict[str, DimRange]:
    """Per axis the least range around those of all profiles; the opt of the first."""
    return {
        axis: DimRange(
            min=min(part[axis].min for part in parts),
            opt=parts[0][axis].opt,
            max=max(part[axis].max for part in parts),
        )
        for axis in parts[0]
    }


class InputShape(Frozen):
    """One network input bound to a profile: int sizes per axis."""

    name: str
    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


# One optimization profile: the sizes of every input.
Profile = tuple[InputShape, ...]
# Per axis of an input a fixed size, the name of a dynamic axis, or None if it has no name.
Axes = Sequence[int | str | None]


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
            found, key = range_of(axis, index, profile)
            if found is None:
                raise ShapeError(
                    f"input {name!r} has a dynamic axis {axis or index!r} without a range",
                    wanted=f"a range for each of {[a for a in axes if not isinstance(a, int)]}",
                    todo=f"add {axis or 'its name'}=min:opt:max to --shapes",
                )
            used.add(key)
            sizes.append(found)
        bound.append(input_shape(name, sizes))
    _refuse_unused(inputs, profile, used)
    return tuple(bound)


def input_shape(name: str, sizes: Sequence[DimRange]) -> InputShape:
    """An input with these sizes per axis."""
    return InputShape(
        name=name,
        min=tuple(s.min for s in sizes),
        opt=tuple(s.opt for s in sizes),
        max=tuple(s.max for s in sizes),
    )


def range_of(axis: str | None, index: int, profile: ShapeProfile) -> tuple[DimRange | None, str]:
    """The range of a dynamic axis, by its name or else its place; and the name it goes by."""
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


def describe(profiles: Iterable[Profile]) -> str:
    """In one line: "input_ids 1x16 / 8x128 / 32x384 (min / opt / max)", profiles with ` | `."""
    return " | ".join(_describe(profile) for profile in profiles) + " (min / opt / max)"


def _describe(profile: Profile) -> str:
    texts = []
    for shape in profile:
        sizes = ("x".join(map(str, dims)) for dims in (shape.min, shape.opt, shape.max))
        texts.append(f"{shape.name} {' / '.join(sizes)}")
    return "; ".join(texts)
