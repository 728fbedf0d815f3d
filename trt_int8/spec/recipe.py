"""Recipes: what to quantize and how to calibrate it. Read from a small TOML file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from pydantic import Field, StrictBool, ValidationError

from trt_int8.errors import RecipeError
from trt_int8.spec.base import Frozen

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class CalibrationSettings(Frozen):
    """How activation ranges are found.

    Attributes:
        method: `max` takes the largest |x|; `percentile` the smallest bound that holds the given
            share of all |x|.
        percentile: for `percentile`, in (0, 100].
        max_samples: use at most this many calibration texts.
        batch_size: texts per forward pass (texts of one length only, so nothing is padded).
    """

    method: Literal["max", "percentile"] = "percentile"
    percentile: float = Field(default=99.995, gt=0, le=100, strict=True)
    max_samples: int = Field(default=512, ge=1, strict=True)
    batch_size: int = Field(default=16, ge=1, strict=True)


class Recipe(Frozen):
    """What becomes INT8.

    Attributes:
        name: shown in reports.
        linear: inputs and weights (per output channel) of Linear layers.
        attention: Q, K, V, softmax output and attention output of each attention.
        keep: glob patterns of module or node names that stay FP16.
        calibration: how ranges are found.
    """

    name: str = "linear+attention"
    linear: StrictBool = True
    attention: StrictBool = True
    keep: tuple[str, ...] = ()
    calibration: CalibrationSettings = CalibrationSettings()


def load_recipe(path: Path | None) -> Recipe:
    """Read a recipe file; None gives the default recipe.

    Raises:
        RecipeError: the file is missing, is not TOML, or has an unknown or wrong setting.
    """
    if path is None:
        return Recipe()
    todo = "see the README for the settings of a recipe"
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecipeError(
            f"no recipe file {str(path)!r}", wanted="a TOML file", todo="check the path"
        ) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(
            f"recipe {str(path)!r} cannot be read ({error})", wanted="TOML text", todo=todo
        ) from error
    try:
        recipe = Recipe.model_validate({"name": path.stem, **data})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        wanted = first["msg"][0].lower() + first["msg"][1:]
        if first["type"] == "extra_forbidden":
            known = CalibrationSettings if where.startswith("calibration.") else Recipe
            wanted = f"only the settings {', '.join(known.model_fields)}"
        raise RecipeError(
            f"recipe {str(path)!r}: setting {where!r} is {first['input']!r}",
            wanted=wanted,
            todo=todo,
        ) from error
    if not (recipe.linear or recipe.attention):
        raise RecipeError(
            f"recipe {str(path)!r} quantizes nothing",
            wanted="linear = true or attention = true",
            todo="switch one of them on",
        )
    return recipe
