"""Optimization profiles: where one is split so that attention stays one INT8 kernel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from trt_int8.spec.attention_limits import longest_int8_attention
from trt_int8.spec.shapes import (
    Axes,
    DimRange,
    InputShape,
    Profile,
    ShapeProfile,
    input_shape,
    range_of,
)

# Per input that has one, the index of its sequence axis.
TokenAxes = Mapping[str, int]


def longest_to_fuse(ranges: Sequence[DimRange]) -> int:
    """The longest sequence S at which attention must be one INT8 kernel, or is left in FP16.

    Each profile has kernels of its own, chosen by its largest S (docs/profiles.md). One profile
    alone is split at the limit of the INT8 kernel if its most common length, `opt`, is within it,
    so its `opt` must fuse. Several profiles are built as they were asked for, so that at least
    the shortest of them must.

    Args:
        ranges: S of each profile.

    Returns:
        S, for `attention_limits.shortest_limit`; 0 if no axis is a sequence.
    """
    if len(ranges) == 1:
        return ranges[0].opt
    return min((dim.max for dim in ranges), default=0)


def fusion_cuts(
    head_dims: Iterable[int], sms: Iterable[int | None], opt: int, longest: int
) -> tuple[int, ...]:
    """Lengths at which to split a profile so that its shorter parts keep fused INT8 attention.

    Args:
        head_dims: D of each attention that is quantized.
        sms: the targets; None for a card not known yet.
        opt: most common S of the profile.
        longest: its largest S.

    Returns:
        Each limit of the INT8 kernel from `opt` up to below `longest`, rising; () where a split
        helps nothing.
    """
    targets = tuple(sms)
    limits = {longest_int8_attention(dim, sm) for dim in set(head_dims) for sm in targets}
    return tuple(sorted(limit for limit in limits if opt <= limit < longest))


def sequence_range(profile: Profile, tokens: TokenAxes) -> DimRange | None:
    """The sizes of the sequence axis, if there is one and all inputs agree; else None."""
    found = {
        (shape.min[index], shape.opt[index], shape.max[index])
        for shape in profile
        if (index := tokens.get(shape.name)) is not None
    }
    if len(found) != 1:
        return None
    low, opt, high = found.pop()
    return DimRange(min=low, opt=opt, max=high)


def split_sequence(profile: Profile, tokens: TokenAxes, cuts: Sequence[int]) -> tuple[Profile, ...]:
    """Split a profile along its sequence axis.

    Args:
        profile: sizes per input.
        tokens: which axis of each input is the sequence.
        cuts: rising lengths between min and max of the sequence; each ends a part.

    Returns:
        One profile per part, without gaps. The part that holds the old `opt` keeps it, the others
        get the middle of their range.
    """
    whole = sequence_range(profile, tokens)
    if whole is None or not cuts:
        return (profile,)
    parts, low = [], whole.min
    for end in (*cuts, whole.max):
        opt = whole.opt if low <= whole.opt <= end else (low + end) // 2
        part = DimRange(min=low, opt=opt, max=end)
        parts.append(
            tuple(_with_sequence(shape, tokens.get(shape.name), part) for shape in profile)
        )
        low = end + 1
    return tuple(parts)


def _with_sequence(shape: InputShape, index: int | None, sizes: DimRange) -> InputShape:
    dims = [
        DimRange(min=a, opt=b, max=c)
        for a, b, c in zip(shape.min, shape.opt, shape.max, strict=True)
    ]
    if index is not None:
        dims[index] = sizes
    return input_shape(shape.name, dims)


def rebind(bound: Profile, axes: Mapping[str, Axes], profile: ShapeProfile) -> Profile:
    """The same inputs in another profile.

    Args:
        bound: sizes per input, by `bind_shapes`.
        axes: of the model's inputs, by name.
        profile: ranges by axis name; an axis it does not name keeps its sizes.
    """
    found = []
    for shape in bound:
        sizes = []
        for index, axis in enumerate(axes[shape.name]):
            known = None if isinstance(axis, int) else range_of(axis, index, profile)[0]
            old = DimRange(min=shape.min[index], opt=shape.opt[index], max=shape.max[index])
            sizes.append(known or old)
        found.append(input_shape(shape.name, sizes))
    return tuple(found)


def profile_labels(profiles: Sequence[Profile], tokens: TokenAxes) -> tuple[str, ...]:
    """Names of profiles in reports: "seq 16-384"; where that says too little, all sizes."""
    ranges = [sequence_range(profile, tokens) for profile in profiles]
    labels = tuple(f"seq {each.min}-{each.max}" for each in ranges if each is not None)
    if len(set(labels)) == len(profiles):
        return labels
    return tuple(_sizes(number, profile) for number, profile in enumerate(profiles))


def _sizes(number: int, profile: Profile) -> str:
    if not profile:
        return f"profile {number}"
    ends = ("x".join(map(str, dims)) for dims in (profile[0].min, profile[0].max))
    return f"{number}: {' to '.join(ends)}"
