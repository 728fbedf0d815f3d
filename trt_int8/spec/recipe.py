"""Recipes: what to quantize and how to calibrate it. Read from a small TOML file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from pydantic import Field, StrictBool, ValidationError, field_validator

from trt_int8.errors import RecipeError
from trt_int8.spec.base import Frozen
from trt_int8.spec.methods import METHODS, Method, parse_method

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


DEFAULT_METHOD = "output"
WeightMethod = Literal["max", "mse"]


class CalibrationSettings(Frozen):
    """How activation ranges are found.

    Attributes:
        method: a method of `spec.methods`, for example `sqnr` or `percentile:99.995`.
        weights: ranges of weights per output channel: `max` the largest |w|, `mse` the range with
            the least squared error.
        max_samples: use at most this many calibration texts.
        batch_size: texts per forward pass.
        pad_to: fill texts up to this many tokens, and leave the padding out of the statistics;
            None to run texts of one length together, so that nothing is padded.
    """

    method: str = DEFAULT_METHOD
    weights: WeightMethod = "max"
    max_samples: int = Field(default=512, ge=1, strict=True)
    batch_size: int = Field(default=16, ge=1, strict=True)
    pad_to: int | None = Field(default=None, ge=1, strict=True)

    @field_validator("method")
    @classmethod
    def _symmetric(cls, text: str) -> str:
        method = parse_method(text)
        if not method.kind.symmetric:
            raise RecipeError(
                f"calibration method {text!r} gives asymmetric ranges",
                wanted="a symmetric one: TensorRT refuses zero points other than 0",
                todo=f"choose one of {', '.join(n for n, k in METHODS.items() if k.symmetric)}",
            )
        return method.label

    def parsed(self) -> Method:
        """The method with all its settings."""
        return parse_method(self.method)


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
