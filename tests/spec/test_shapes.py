from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_int8.errors import ShapeError
from trt_int8.spec.shapes import (
    DEFAULT_SHAPES,
    DimRange,
    ShapeProfile,
    bind_shapes,
    canonical_axis,
    default_profile,
    parse_shapes,
)

PROFILE = parse_shapes("batch=1:3:7,seq=5:11:13")


def test_min_opt_and_max_are_read() -> None:
    assert parse_shapes("batch=1:8:32,seq=16:128:384").dims == {
        "batch": DimRange(min=1, opt=8, max=32),
        "seq": DimRange(min=16, opt=128, max=384),
    }


def test_a_single_number_is_a_fixed_size() -> None:
    assert parse_shapes("seq=113").dims["seq"] == DimRange(min=113, opt=113, max=113)


@pytest.mark.parametrize("text", [DEFAULT_SHAPES, "batch=1:3:7,patches=9:9:9"])
def test_a_profile_prints_as_on_the_command_line(text: str) -> None:
    assert str(parse_shapes(text)) == text


@settings(max_examples=40)
@given(st.lists(st.integers(1, 9999), min_size=3, max_size=3))
def test_ordered_sizes_survive_printing_and_reading(sizes: list[int]) -> None:
    low, opt, high = sorted(sizes)
    text = f"seq={low}:{opt}:{high}"
    assert str(parse_shapes(text)) == text


@pytest.mark.parametrize("text", ["seq", "seq=", "seq=1:2", "seq=a:b:c", "seq=-1", "=4", "seq=1.5"])
def test_a_malformed_item_is_shown(text: str) -> None:
    with pytest.raises(ShapeError, match=f"--shapes item '{text}'; wanted axis=min:opt:max"):
        parse_shapes(f"batch=1,{text}")


@pytest.mark.parametrize("sizes", ["0:1:2", "3:2:4", "1:5:4", "0:0:0"])
def test_sizes_out_of_order_are_refused(sizes: str) -> None:
    with pytest.raises(ShapeError, match=f"shape {sizes}; wanted 0 < min <= opt <= max"):
        parse_shapes(f"seq={sizes}")


def test_an_axis_named_twice_under_two_spellings_is_refused() -> None:
    with pytest.raises(ShapeError, match="names the axis 'seq' twice"):
        parse_shapes("seq=16,sequence_length=32")


def test_a_size_with_thousands_of_digits_is_refused() -> None:
    with pytest.raises(ShapeError, match="seq"):
        parse_shapes("seq=" + "9" * 5000)


@pytest.mark.parametrize("name", ["seq", "sequence", "Sequence_Length", "seq_len", "S"])
def test_usual_spellings_mean_the_sequence_axis(name: str) -> None:
    assert canonical_axis(name) == "seq"


def test_an_unusual_axis_keeps_its_name() -> None:
    assert canonical_axis("Patches") == "Patches"


def test_a_limit_cuts_all_three_sizes_of_its_axis_alone() -> None:
    cut = parse_shapes("batch=1:3:7,seq=5:11:13").with_limit("seq", 4)
    assert str(cut) == "batch=1:3:7,seq=4:4:4"


def test_a_limit_above_the_maximum_changes_nothing() -> None:
    assert PROFILE.with_limit("seq", 99) == PROFILE


def test_dynamic_axes_get_their_range_and_fixed_ones_their_size() -> None:
    (bound,) = bind_shapes({"ids": ("batch_size", "sequence", 3)}, PROFILE)
    assert bound.name == "ids"
    assert (bound.min, bound.opt, bound.max) == ((1, 5, 3), (3, 11, 3), (7, 13, 3))


def test_unnamed_axes_are_batch_and_sequence() -> None:
    (bound,) = bind_shapes({"ids": (None, None)}, PROFILE)
    assert bound.opt == (3, 11)


def test_axes_with_names_of_an_exporter_are_batch_and_sequence_by_place() -> None:
    (bound,) = bind_shapes({"ids": ("dim_0", "s77")}, PROFILE)
    assert bound.opt == (3, 11)


def test_a_name_in_the_profile_goes_before_the_place() -> None:
    profile = parse_shapes("batch=1,seq=2,tokens=9")
    shapes = bind_shapes({"ids": ("batch", "tokens"), "other": ("batch", "seq")}, profile)
    assert [shape.opt for shape in shapes] == [(1, 9), (1, 2)]


def test_a_sequence_axis_in_front_never_takes_the_range_of_the_batch() -> None:
    with pytest.raises(ShapeError, match="dynamic axis 'seq' without a range"):
        bind_shapes({"ids": ("seq", "batch")}, parse_shapes("batch=1:3:7"))


def test_inputs_stay_in_order() -> None:
    bound = bind_shapes({"z": ("batch",), "a": ("batch", "seq")}, PROFILE)
    assert [shape.name for shape in bound] == ["z", "a"]


def test_a_dynamic_axis_without_a_range_is_named() -> None:
    with pytest.raises(ShapeError, match=r"'pixels' has a dynamic axis 'rows' .*add rows=min"):
        bind_shapes({"pixels": ("batch", 3, "rows")}, PROFILE)


def test_an_unnamed_third_axis_is_told_by_its_place() -> None:
    with pytest.raises(ShapeError, match="'pixels' has a dynamic axis 2 without a range"):
        bind_shapes({"pixels": ("batch", 3, None)}, PROFILE)


def test_an_axis_that_the_model_does_not_have_is_named() -> None:
    with pytest.raises(ShapeError, match=r"names the axes \['rows'\]; wanted .*\['batch', 'seq'\]"):
        bind_shapes({"ids": ("batch", "seq")}, parse_shapes("batch=1,seq=2,rows=9"))


def test_the_default_profile_fits_a_model_without_a_sequence() -> None:
    (bound,) = bind_shapes({"x": ("batch", 48)}, default_profile())
    assert bound.max == (32, 48)


def test_a_sequence_asked_for_is_refused_by_a_model_without_one() -> None:
    with pytest.raises(ShapeError, match=r"names the axes \['seq'\]; wanted .*\['batch'\]"):
        bind_shapes({"x": ("batch", 48)}, parse_shapes(DEFAULT_SHAPES))


def test_a_limit_does_not_make_the_default_an_asked_profile() -> None:
    cut = default_profile().with_limit("seq", 7)
    (bound,) = bind_shapes({"x": ("batch", 48)}, cut)
    assert (bound.max, cut.dims["seq"].max) == ((32, 48), 7)


def test_a_profile_finds_an_axis_by_any_spelling() -> None:
    profile = ShapeProfile(dims={"seq": DimRange(min=1, opt=2, max=3)})
    assert profile.of("sequence_length") == profile.dims["seq"]
    assert profile.of("rows") is None


def seqs(shapes: ShapeProfile) -> list[str]:
    return [str(each.dims["seq"]) for each in shapes.profiles()]


def test_a_bar_in_an_axis_gives_one_profile_per_range() -> None:
    shapes = parse_shapes("batch=1:3:7,seq=5:11:13|14:20:21")
    assert seqs(shapes) == ["5:11:13", "14:20:21"]
    assert {str(each.dims["batch"]) for each in shapes.profiles()} == {"1:3:7"}


def test_shapes_given_again_are_one_profile_more() -> None:
    shapes = parse_shapes("batch=1:3:7,seq=5:11:13", "batch=1,seq=14:20:21")
    assert [str(each) for each in shapes.profiles()] == [
        "batch=1:3:7,seq=5:11:13",
        "batch=1:1:1,seq=14:20:21",
    ]


def test_two_axes_with_bars_are_combined_each_with_each() -> None:
    shapes = parse_shapes("batch=1|8,seq=5|9")
    assert [str(p) for p in shapes.profiles()] == [
        f"batch={b}:{b}:{b},seq={s}:{s}:{s}" for b in (1, 8) for s in (5, 9)
    ]


def test_the_sizes_of_several_profiles_lie_in_the_range_around_them() -> None:
    assert str(parse_shapes("seq=5:11:13|2:3:4|14:20:21").dims["seq"]) == "2:11:21"


def test_one_range_alone_is_one_profile_without_parts() -> None:
    assert parse_shapes("seq=5:11:13").parts == ()
    assert len(parse_shapes("seq=5:11:13").profiles()) == 1


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(1, 999), min_size=3, max_size=3), min_size=1, max_size=9))
def test_several_profiles_survive_printing_and_reading(drawn: list[list[int]]) -> None:
    ranges = list(dict.fromkeys(":".join(map(str, sorted(sizes))) for sizes in drawn))
    shapes = parse_shapes("batch=1,seq=" + "|".join(ranges))
    assert seqs(shapes) == ranges
    assert parse_shapes(*str(shapes).split()) == shapes


@pytest.mark.parametrize(
    ("texts", "match"),
    [
        (("seq=5:11:13|",), "--shapes item 'seq=5:11:13|'"),
        (("seq=5|5:5:5",), "profile 2 of --shapes is there twice"),
        (("seq=5", "seq=6", "seq=5"), "profile 3 of --shapes is there twice"),
        (("batch=1,seq=5", "seq=6"), r"profile 2 .* axes \['seq'\], the first \['batch', 'seq'\]"),
        (("seq=" + "|".join(map(str, range(1, 18))),), "asks for 17 profiles; wanted at most 16"),
        (
            ("a=1|2|3|4|5,b=1|2|3|4|5,c=" + "|".join(map(str, range(1, 99))),),
            "asks for 2450 profiles",
        ),
    ],
)
def test_profiles_that_cannot_be_built_are_refused(texts: tuple[str, ...], match: str) -> None:
    with pytest.raises(ShapeError, match=match.replace("|'", r"\|'")):
        parse_shapes(*texts)


def test_a_limit_cuts_profiles_and_drops_those_above_it() -> None:
    cut = parse_shapes("seq=5:11:13|14:20:21|22:23:24").with_limit("seq", 20)
    assert seqs(cut) == ["5:11:13", "14:20:20"]
    assert str(cut.dims["seq"]) == "5:11:20"
