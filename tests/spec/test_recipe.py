from __future__ import annotations

from pathlib import Path

import pytest

from trt_int8.errors import RecipeError
from trt_int8.spec.methods import parse_method
from trt_int8.spec.recipe import CalibrationSettings, Recipe, load_recipe


def write(folder: Path, text: str) -> Path:
    path = folder / "odd.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_no_file_gives_the_default_recipe() -> None:
    recipe = load_recipe(None)
    assert (recipe.linear, recipe.attention, recipe.keep) == (True, True, ())
    assert recipe.calibration.method == "output"
    assert (recipe.calibration.max_samples, recipe.calibration.batch_size) == (512, 16)
    assert recipe.calibration.pad_to is None
    assert recipe.smooth == "auto"


def test_every_setting_is_read(tmp_path: Path) -> None:
    text = """
    name = "mine"
    linear = true
    attention = false
    smooth = 0.75
    keep = ["*.pooler.*", "classifier"]
    [calibration]
    method = "percentile:99.9"
    weights = "mse"
    max_samples = 33
    batch_size = 5
    pad_to = 48
    """
    recipe = load_recipe(write(tmp_path, text))
    assert (recipe.name, recipe.attention, recipe.smooth) == ("mine", False, 0.75)
    assert recipe.keep == ("*.pooler.*", "classifier")
    assert recipe.calibration.model_dump() == {
        "method": "percentile:99.9",
        "weights": "mse",
        "max_samples": 33,
        "batch_size": 5,
        "pad_to": 48,
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
        ("[calibration]\nbatch_size = 0", r"'calibration\.batch_size' is 0; wanted .*1"),
        ("[calibration]\nmax_samples = -3", r"'calibration\.max_samples' is -3"),
        ("[calibration]\nmax_samples = 0", r"'calibration\.max_samples' is 0; wanted .*1"),
        ("[calibration]\npad_to = 0", r"'calibration\.pad_to' is 0; wanted .*1"),
        ("[calibration]\nmethod = 3", r"'calibration\.method' is 3; wanted .*string"),
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


@pytest.mark.parametrize("setting", ["max_samples", "batch_size", "pad_to"])
@pytest.mark.parametrize("value", ["true", "'9'"])
def test_a_number_takes_a_number_only(tmp_path: Path, setting: str, value: str) -> None:
    with pytest.raises(RecipeError, match=rf"setting 'calibration\.{setting}' is .*valid "):
        load_recipe(write(tmp_path, f"[calibration]\n{setting} = {value}"))


def test_a_setting_of_calibration_that_is_no_more_is_refused_with_those_there_are(
    tmp_path: Path,
) -> None:
    with pytest.raises(
        RecipeError,
        match=r"'calibration\.percentile' is 99\.9; wanted only the settings method, weights,",
    ):
        load_recipe(write(tmp_path, "[calibration]\npercentile = 99.9"))


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("sqnr", "sqnr"),
        ("percentile", "percentile:99.99"),
        ("percentile:99.9950", "percentile:99.995"),
        ("percentile:p=99", "percentile:99"),
        ("entropy:start=64,stride=1", "entropy:start=64"),
        (" max ", "max"),
    ],
)
def test_a_method_is_kept_in_its_shortest_form(tmp_path: Path, text: str, label: str) -> None:
    settings = load_recipe(write(tmp_path, f"[calibration]\nmethod = '{text}'")).calibration
    assert settings.method == label
    assert settings.parsed() == parse_method(text)


def test_equal_methods_make_equal_recipes() -> None:
    assert CalibrationSettings(method="percentile:p=99.90") == CalibrationSettings(
        method="percentile:99.9"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("entropie", "calibration method 'entropie' is unknown; wanted one of max, .*entropy"),
        ("percentile:101", "'percentile:101' has the number '101'; wanted a number from .* to 100"),
        ("percentile:0", "'percentile:0' has the number '0'; wanted"),
        ("percentile:nan", "'percentile:nan' has the number 'nan'"),
        ("max:3", "'max:3' has the setting '3'; wanted only the name"),
    ],
)
def test_a_wrong_method_is_named_with_what_is_wanted(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(tmp_path, f"[calibration]\nmethod = '{text}'"))


@pytest.mark.parametrize(
    "text", ["affine-minmax", "affine-current", "affine-mse", "kl-independent:stride=8"]
)
def test_a_method_with_asymmetric_ranges_is_refused_with_the_reason(text: str) -> None:
    with pytest.raises(
        RecipeError,
        match=rf"'{text}' gives asymmetric ranges; .*TensorRT refuses zero points other than 0",
    ) as caught:
        CalibrationSettings(method=text)
    assert "affine" not in caught.value.todo
    assert "percentile" in caught.value.todo


def test_a_recipe_that_quantizes_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="quantizes nothing; wanted linear = true or"):
        load_recipe(write(tmp_path, "linear = false\nattention = false"))


@pytest.mark.parametrize("smooth", ["0", "0.5", "'auto'"])
def test_a_recipe_survives_its_json_form(tmp_path: Path, smooth: str) -> None:
    text = f"keep = ['a*']\nsmooth = {smooth}\n[calibration]\nmethod = 'max'"
    recipe = load_recipe(write(tmp_path, text))
    assert Recipe.model_validate_json(recipe.to_json()) == recipe


@pytest.mark.parametrize(
    ("text", "value"),
    [("0", 0), ("0.0", 0), ("1e-3", 0.001), ("0.5", 0.5), ("1", 1), ("'auto'", "auto")],
)
def test_smooth_takes_a_number_from_0_to_1_or_auto(
    tmp_path: Path, text: str, value: object
) -> None:
    recipe = load_recipe(write(tmp_path, f"smooth = {text}"))
    assert recipe.smooth == recipe.alpha == value


@pytest.mark.parametrize(
    "value", ["'yes'", "'AUTO'", "'0.5'", "true", "false", "-0.1", "1.5", "nan", "inf", "[0.5]"]
)
def test_smooth_takes_nothing_else(tmp_path: Path, value: str) -> None:
    shown = {"true": "True", "false": "False"}.get(value, value)
    with pytest.raises(RecipeError) as refused:
        load_recipe(write(tmp_path, f"smooth = {value}"))
    wanted = 'wanted a number from 0 to 1, or "auto"'
    assert f"setting 'smooth' is {shown}; {wanted}" in str(refused.value)


@pytest.mark.parametrize(
    ("plugins", "alpha"),
    [("auto", 0.5), ("off", 0.5), ("attention", 0.5), ("layernorm", 0), ("attention,gelu", 0)],
)
def test_named_plugins_that_write_int8_leave_nothing_to_smooth_and_say_so(
    plugins: str, alpha: float
) -> None:
    recipe = Recipe(plugins=plugins, smooth=0.5)
    assert recipe.alpha == alpha
    assert ["smoothed" in warning for warning in recipe.warnings] == ([] if alpha else [True])
    assert Recipe(plugins=plugins).warnings == ()


@pytest.mark.parametrize(
    ("file", "name"), [("linear.toml", "linear"), ("linear_attention.toml", "linear+attention")]
)
def test_a_recipe_file_that_comes_along_is_the_one_of_its_name(file: str, name: str) -> None:
    recipes = Path(__file__).parents[2] / "recipes"
    assert load_recipe(recipes / file) == load_recipe(name)
    assert {path.name for path in recipes.iterdir()} == {"linear.toml", "linear_attention.toml"}
