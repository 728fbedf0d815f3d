from __future__ import annotations

from pathlib import Path

import pytest

from trt_int8.errors import RecipeError
from trt_int8.spec.recipe import Recipe, load_recipe


def write(folder: Path, text: str) -> Path:
    path = folder / "odd.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_no_file_gives_the_default_recipe() -> None:
    recipe = load_recipe(None)
    assert (recipe.linear, recipe.attention, recipe.keep) == (True, True, ())
    assert (recipe.calibration.method, recipe.calibration.percentile) == ("percentile", 99.995)


def test_every_setting_is_read(tmp_path: Path) -> None:
    text = """
    name = "mine"
    linear = true
    attention = false
    keep = ["*.pooler.*", "classifier"]
    [calibration]
    method = "max"
    percentile = 99.9
    max_samples = 33
    batch_size = 5
    """
    recipe = load_recipe(write(tmp_path, text))
    assert (recipe.name, recipe.attention) == ("mine", False)
    assert recipe.keep == ("*.pooler.*", "classifier")
    assert recipe.calibration.model_dump() == {
        "method": "max",
        "percentile": 99.9,
        "max_samples": 33,
        "batch_size": 5,
    }


def test_a_recipe_without_a_name_is_called_after_its_file(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path, "attention = false")).name == "odd"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no recipe file '.*odd\.toml'; wanted a TOML file"):
        load_recipe(tmp_path / "odd.toml")


def test_text_that_is_not_toml_is_refused_with_the_place(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"cannot be read \(.*line 2.*\); wanted TOML text"):
        load_recipe(write(tmp_path, "linear = true\nlinear: false\n"))


def test_a_binary_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "odd.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"cannot be read .*wanted TOML text"):
        load_recipe(path)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"cannot be read .*directory"):
        load_recipe(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[calibration]\npercentile = 101", r"'calibration\.percentile' is 101; wanted .*100"),
        ("[calibration]\npercentile = 0", r"'calibration\.percentile' is 0; wanted .*than 0"),
        ("[calibration]\npercentile = nan", r"'calibration\.percentile' is nan"),
        ("[calibration]\nbatch_size = 0", r"'calibration\.batch_size' is 0; wanted .*1"),
        ("[calibration]\nmax_samples = -3", r"'calibration\.max_samples' is -3"),
        ("[calibration]\nmethod = 'entropy'", r"'entropy'; wanted .*'max' or 'percentile'"),
        ("keep = 'encoder'", r"'keep' is 'encoder'; wanted"),
        ("name = 3", r"'name' is 3; wanted .*string"),
        ("calibration = 3", r"'calibration' is 3"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_wanted(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(tmp_path, text))


def test_an_unknown_setting_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="setting 'lineer'"):
        load_recipe(write(tmp_path, "lineer = true"))


def test_an_unknown_setting_is_told_which_settings_there_are(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"wanted .*linear.*attention.*keep"):
        load_recipe(write(tmp_path, "lineer = true"))


@pytest.mark.parametrize("value", ["'no'", "1"])
def test_a_switch_takes_true_or_false_only(tmp_path: Path, value: str) -> None:
    with pytest.raises(RecipeError, match=r"setting 'linear' is .*wanted .*boolean"):
        load_recipe(write(tmp_path, f"linear = {value}"))


@pytest.mark.parametrize("setting", ["percentile", "max_samples", "batch_size"])
@pytest.mark.parametrize("value", ["true", "'9'"])
def test_a_number_takes_a_number_only(tmp_path: Path, setting: str, value: str) -> None:
    with pytest.raises(RecipeError, match=rf"setting 'calibration\.{setting}' is .*valid "):
        load_recipe(write(tmp_path, f"[calibration]\n{setting} = {value}"))


def test_a_percentile_may_be_a_whole_number(tmp_path: Path) -> None:
    path = write(tmp_path, "[calibration]\npercentile = 99")
    assert load_recipe(path).calibration.percentile == 99.0


def test_a_recipe_that_quantizes_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="quantizes nothing; wanted linear = true or"):
        load_recipe(write(tmp_path, "linear = false\nattention = false"))


def test_a_recipe_survives_its_json_form(tmp_path: Path) -> None:
    recipe = load_recipe(write(tmp_path, "keep = ['a*']\n[calibration]\nmethod = 'max'"))
    assert Recipe.model_validate_json(recipe.to_json()) == recipe
