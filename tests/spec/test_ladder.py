"""Recipes by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from trt_int8.errors import RecipeError
from trt_int8.spec.ladder import LADDER
from trt_int8.spec.recipe import Recipe, load_recipe

NAMES = ("ffn", "linear", "linear+attention", "full", "ft1", "ft2", "ft3")


def write(folder: Path, text: str) -> Path:
    path = folder / "odd.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_rungs_are_in_order() -> None:
    assert tuple(LADDER) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_each_rung_says_in_one_line_what_it_is(name: str) -> None:
    assert load_recipe(name).name == name
    assert 0 < len(LADDER[name].about) < 90
    assert "\n" not in LADDER[name].about


def test_the_default_rung_is_the_default_recipe() -> None:
    assert load_recipe("linear+attention") == Recipe() == load_recipe(None)


def test_no_two_rungs_are_the_same_and_ft1_is_the_default_without_smoothing() -> None:
    unnamed = [load_recipe(name).model_copy(update={"name": ""}) for name in NAMES]
    assert {(a, b) for a in range(7) for b in range(a) if unnamed[a] == unnamed[b]} == set()
    assert load_recipe("ft1") == Recipe(name="ft1", smooth=0)


def test_fastertransformer_modes_do_not_smooth_and_all_other_rungs_find_the_best() -> None:
    assert [load_recipe(name).smooth for name in NAMES] == ["auto"] * 4 + [0] * 3


def switches(name: str) -> dict[str, object]:
    recipe = load_recipe(name)
    fields = ("linear", "attention", "residual", "gemm_output", "softmax_input", "weight_scales")
    return {field: getattr(recipe, field) for field in fields}


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        # FasterTransformer, quant_utils.py: which quantizers each int8_mode switches off.
        ("ft1", [True, True, False, False, False, "channel"]),
        ("ft2", [True, True, True, True, False, "tensor"]),
        ("ft3", [True, True, True, True, True, "tensor"]),
    ],
)
def test_fastertransformer_modes_have_its_sites(name: str, wanted: list[object]) -> None:
    assert list(switches(name).values()) == wanted


@pytest.mark.parametrize("name", ["fulll", "FULL", "linear + attention", ""])
def test_an_unknown_name_is_told_all_names(name: str) -> None:
    with pytest.raises(RecipeError, match=r"is unknown; wanted one of ffn, linear, .*ft3, or a"):
        load_recipe(name)


def test_a_path_is_never_a_name(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no recipe file 'full'"):
        load_recipe(Path("full"))
    assert load_recipe(str(write(tmp_path, "attention = false"))).attention is False


def test_a_file_builds_on_a_rung(tmp_path: Path) -> None:
    text = "base = 'full'\nforce = true\nembeddings = true\n[calibration]\nmethod = 'max'"
    recipe = load_recipe(write(tmp_path, text))
    assert (recipe.name, recipe.residual, recipe.force, recipe.embeddings) == (
        "odd",
        True,
        True,
        True,
    )
    assert recipe.calibration.method == "max"


def test_a_file_may_switch_off_what_its_base_has(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "base = 'ft2'\ngemm_output = false"))
    assert (recipe.residual, recipe.gemm_output) == (True, False)


@pytest.mark.parametrize("value", ["'best'", "3", "['full']"])
def test_a_base_that_is_no_rung_is_told_all_names(tmp_path: Path, value: str) -> None:
    with pytest.raises(RecipeError, match=r"setting 'base' is .* wanted one of ffn, .*ft3"):
        load_recipe(write(tmp_path, f"base = {value}"))


@pytest.mark.parametrize("value", ["true", "false", "'ffn'"])
def test_linear_takes_a_switch_or_ffn(tmp_path: Path, value: str) -> None:
    wanted: object = {"true": True, "false": False}.get(value, "ffn")
    assert load_recipe(write(tmp_path, f"linear = {value}")).linear == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("linear = 'fnn'", r"'linear' is 'fnn'; wanted a valid boolean or \"ffn\""),
        ("linear = 1", r"'linear' is 1; wanted a valid boolean or"),
        ("residual = 'yes'", r"'residual' is 'yes'"),
        ("weight_scales = 'row'", r"'weight_scales' is 'row'; wanted .*'channel' or 'tensor'"),
        ("force = 1", r"'force' is 1"),
    ],
)
def test_a_wrong_switch_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(tmp_path, text))


@pytest.mark.parametrize("name", NAMES)
def test_a_rung_survives_its_json_form(name: str) -> None:
    recipe = load_recipe(name)
    assert Recipe.model_validate_json(recipe.to_json()) == recipe


def test_the_json_form_of_an_older_recipe_still_reads() -> None:
    old = '{"name": "n", "linear": true, "attention": false, "keep": ["a*"]}'
    recipe = Recipe.model_validate_json(old)
    assert (recipe.residual, recipe.weight_scales, recipe.keep) == (False, "channel", ("a*",))


def test_only_placements_that_modules_can_hold_do_without_a_graph() -> None:
    assert [name for name in NAMES if not load_recipe(name).needs_graph] == [
        "linear",
        "linear+attention",
        "ft1",
    ]
    assert Recipe(embeddings=True).needs_graph


def test_rungs_with_residual_sums_warn_and_are_guarded_unless_forced() -> None:
    warned = [name for name in NAMES if load_recipe(name).warnings]
    assert warned == [name for name in NAMES if load_recipe(name).is_guarded]
    assert warned == ["full", "ft2", "ft3"]
    assert not Recipe(residual=True, force=True).is_guarded
    assert any("leak" in text for text in load_recipe("ft3").warnings)
