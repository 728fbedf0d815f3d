"""What the README tells the reader to type exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from trt_int8.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def options_of_build() -> set[str]:
    shown = CliRunner().invoke(app, ["build", "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"})
    assert shown.exit_code == 0
    return set(re.findall(r"--[a-z][a-z-]+", shown.output))


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_make_target_it_names_is_in_the_makefile(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^ {4}|`)make ([a-z-]+)", text, re.MULTILINE))
    assert named
    assert named <= set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))


def test_every_option_it_names_is_one_of_the_build_command() -> None:
    table = README.split("| option | meaning |")[1].split("\n\n")[0]
    named = set(re.findall(r"--[a-z][a-z-]+", table))
    assert len(named) > 10
    assert named <= options_of_build()


@pytest.mark.parametrize("mark", ["demo", "stsb", "bench"])
def test_the_measured_parts_are_filled_in(mark: str) -> None:
    body = README.split(f"<!-- {mark}:start -->")[1].split(f"<!-- {mark}:end -->")[0]
    assert re.search(r"\d", body)


def test_every_file_it_links_to_is_there() -> None:
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if "://" not in link]
    assert links
    assert [link for link in links if not (ROOT / link).is_file()] == []


def test_every_recipe_that_ships_can_be_loaded() -> None:
    from trt_int8.spec.recipe import load_recipe

    recipes = [load_recipe(path) for path in sorted((ROOT / "recipes").glob("*.toml"))]
    assert [(r.linear, r.attention) for r in recipes] == [(True, False), (True, True)]
