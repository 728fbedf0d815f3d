"""Where a profile is split, and what the parts serve."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_int8.spec.profiles import (
    fusion_cuts,
    longest_to_fuse,
    profile_labels,
    rebind,
    sequence_range,
    split_sequence,
)
from trt_int8.spec.shapes import DimRange, InputShape, Profile, bind_shapes, parse_shapes

TOKENS = {"ids": 1, "mask": 1}


def profile(low: int, opt: int, high: int) -> Profile:
    """Two inputs of tokens [B, S], and an image that the sequence does not touch."""
    sizes = [((1, low), (3, opt), (7, high))] * 2
    tokens = [
        InputShape(name=name, min=a, opt=b, max=c)
        for name, (a, b, c) in zip(("ids", "mask"), sizes, strict=True)
    ]
    return (*tokens, InputShape(name="image", min=(1, 5), opt=(3, 5), max=(7, 5)))


@pytest.mark.parametrize(
    ("dims", "sms", "opt", "longest", "cuts"),
    [
        ({64}, (75,), 128, 512, (384,)),
        ({64}, (80,), 128, 512, ()),
        ({64}, (80,), 128, 1024, (512,)),
        ({64}, (75, 80), 128, 1024, (384, 512)),
        ({32}, (75,), 128, 512, ()),
        ({32, 64}, (75,), 128, 1000, (384, 512)),
        ({64}, (75,), 384, 385, (384,)),
        ({64}, (75,), 385, 512, ()),
        ({64}, (None,), 128, 512, (384,)),
        ({80}, (75, 80), 128, 1024, ()),
        (set(), (75,), 128, 1024, ()),
        ({64}, (), 128, 1024, ()),
    ],
)
def test_a_profile_is_cut_where_a_fused_kernel_ends_if_opt_keeps_it(
    dims: set[int], sms: tuple[int | None, ...], opt: int, longest: int, cuts: tuple[int, ...]
) -> None:
    assert fusion_cuts(dims, sms, opt, longest) == cuts


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 99), min_size=3, max_size=3),
    st.sets(st.integers(1, 98), max_size=4),
)
def test_the_parts_serve_every_length_of_the_whole_once(sizes: list[int], at: set[int]) -> None:
    low, opt, high = sorted(sizes)
    cuts = sorted(cut for cut in at if low <= cut < high)
    parts = [
        sequence_range(part, TOKENS)
        for part in split_sequence(profile(low, opt, high), TOKENS, cuts)
    ]
    served = [size for part in parts if part for size in range(part.min, part.max + 1)]
    assert served == list(range(low, high + 1))
    assert all(part and part.min <= part.opt <= part.max for part in parts)
    assert opt in [part.opt for part in parts if part]


def test_a_split_leaves_inputs_without_a_sequence_and_the_batch_alone() -> None:
    for part in split_sequence(profile(5, 11, 40), TOKENS, (13, 29)):
        assert part[2] == profile(5, 11, 40)[2]
        assert [(s.min[0], s.opt[0], s.max[0]) for s in part] == [(1, 3, 7)] * 3


def test_the_part_with_opt_keeps_it_the_others_take_their_middle() -> None:
    parts = split_sequence(profile(5, 11, 40), TOKENS, (13, 29))
    assert [part[0].opt[1] for part in parts] == [11, 21, 35]


def test_inputs_of_different_lengths_are_not_split() -> None:
    mixed = (profile(5, 11, 40)[0], profile(5, 11, 39)[1])
    assert split_sequence(mixed, TOKENS, (13,)) == (mixed,)


def test_profiles_are_named_by_their_sequence_or_else_by_all_sizes() -> None:
    parts = split_sequence(profile(5, 11, 40), TOKENS, (13,))
    assert profile_labels(parts, TOKENS) == ("seq 5-13", "seq 14-40")
    assert profile_labels((parts[0], parts[0]), TOKENS) == ("0: 1x5 to 7x13", "1: 1x5 to 7x13")
    assert profile_labels(parts, {}) == ("0: 1x5 to 7x13", "1: 1x14 to 7x40")


def test_an_axis_that_a_profile_does_not_name_keeps_its_sizes() -> None:
    axes = {"ids": ("batch", "sequence"), "image": ("batch", 3, "rows")}
    bound = bind_shapes(axes, parse_shapes("batch=1:3:7,seq=5:11:40,rows=9"))
    again = rebind(bound, axes, parse_shapes("batch=2,seq=6:7:8"))
    assert [shape.opt for shape in again] == [(2, 7), (2, 3, 9)]
    assert [shape.max for shape in again] == [(2, 8), (2, 3, 9)]


def test_one_profile_must_fuse_at_opt_several_in_the_shortest() -> None:
    ranges = [DimRange(min=5, opt=11, max=40), DimRange(min=41, opt=50, max=60)]
    assert longest_to_fuse(ranges[:1]) == 11
    assert longest_to_fuse(list(reversed(ranges))) == 40
    assert longest_to_fuse([]) == 0
