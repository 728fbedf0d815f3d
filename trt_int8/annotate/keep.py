"""The user's `keep` patterns must mean something."""

from __future__ import annotations

from collections.abc import Collection

from trt_int8.errors import RecipeError
from trt_int8.spec.recipe import Recipe
from trt_int8.spec.rules import is_kept

_SHOWN = 3


def check_keep(recipe: Recipe, names: Collection[str]) -> None:
    """Refuse a pattern that matches nothing: a misspelt one would quantize what it should not.

    Args:
        recipe: its `keep` patterns.
        names: all modules or nodes that a pattern can name.

    Raises:
        RecipeError: naming the first pattern that matches none of them.
    """
    idle = [p for p in recipe.keep if not any(is_kept(name, (p,)) for name in names)]
    if idle:
        raise RecipeError(
            f"'keep' has the pattern {idle[0]!r}, which matches nothing in the model",
            wanted=f"names such as {', '.join(list(names)[:_SHOWN])} (* stands for anything)",
            todo="correct or remove it",
        )
