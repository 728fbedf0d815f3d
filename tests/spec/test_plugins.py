"""The setting `plugins`."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import pytest

from trt_int8.errors import RecipeError
from trt_int8.spec.plugins import PLUGIN_FAMILIES, named_families, parse_plugins
from trt_int8.spec.recipe import Recipe, load_recipe


@pytest.mark.parametrize("text", ["auto", "off"])
def test_a_word_alone_names_no_family(text: str) -> None:
    assert parse_plugins(text) == text
    assert named_families(text) == frozenset()


@pytest.mark.parametrize("names", permutations(PLUGIN_FAMILIES))
def test_the_order_of_names_and_spaces_do_not_matter(names: tuple[str, ...]) -> None:
    assert parse_plugins(" , ".join(names)) == "attention,layernorm,gelu"


def test_named_families_are_those_that_are_named() -> None:
    assert named_families(parse_plugins("gelu,attention")) == {"attention", "gelu"}


@pytest.mark.parametrize(
    ("text", "came"),
    [
        ("", "'' is unknown"),
        ("softmax", "'softmax' is unknown"),
        ("attention,", "'' is unknown"),
        ("Attention", "'Attention' is unknown"),
        ("auto,gelu", "'auto' stands with other names"),
        ("gelu,off", "'off' stands with other names"),
    ],
)
def test_a_wrong_value_is_refused_with_all_names(text: str, came: str) -> None:
    with pytest.raises(RecipeError, match=came) as caught:
        parse_plugins(text)
    assert caught.value.wanted == "auto or off alone, or any of attention, layernorm, gelu"


def test_a_recipe_has_the_setting_and_auto_is_the_default(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('plugins = "gelu,attention"\n', encoding="utf-8")
    assert load_recipe(path).plugins == "attention,gelu"
    assert Recipe().plugins == "auto"


@pytest.mark.parametrize("value", ['"wrong"', "true", '["gelu"]'])
def test_a_recipe_with_a_wrong_value_is_refused(value: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f"plugins = {value}\n", encoding="utf-8")
    with pytest.raises(RecipeError, match="plugins"):
        load_recipe(path)
