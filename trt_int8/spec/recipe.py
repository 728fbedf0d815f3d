"""Recipes: what to quantize and how to calibrate it. By name, or from a small TOML file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, StrictBool, StrictStr, ValidationError, field_validator
from pydantic_core import PydanticCustomError

from trt_int8.errors import RecipeError
from trt_int8.spec.base import Frozen
from trt_int8.spec.ladder import LADDER, NAMES
from trt_int8.spec.methods import METHODS, Method, parse_method
from trt_int8.spec.plugins import AUTO, named_families, parse_plugins
from trt_int8.spec.smoothing import AUTO as AUTO_ALPHA
from trt_int8.spec.smoothing import Alpha

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


DEFAULT_METHOD = "output"
_HELP = "docs/placement.md has the settings of a recipe"
WeightMethod = Literal["max", "mse"]
WeightScales = Literal["channel", "tensor"]
Linears = bool | Literal["ffn"]


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
        linear: inputs and weights of Linear layers: all, none, or those of the feed-forward blocks
            alone (`"ffn"`).
        attention: Q, K, V, softmax output and attention output of each attention.
        residual: the skip arm of each residual sum reads the INT8 pair of its source, which in a
            post-LN model is the LayerNorm output that the Linear layers read too.
        embeddings: embedding tables are stored as INT8, one scale per row.
        gemm_output: the result of each quantized Linear, before its bias.
        softmax_input: the masked scores.
        weight_scales: one weight scale per output `channel`, or one per `tensor`; Q, K and V of
            one attention then share theirs.
        smooth: how much of the outliers of a Linear's input goes into its weights: the alpha of
            SmoothQuant (Xiao et al. 2023), up to 1; 0 leaves them where they are; `auto` finds the
            best for each input, which may be none.
        keep: glob patterns of module or node names that stay FP16.
        force: quantize residual sums although they have one-sided outliers.
        plugins: what becomes plugin nodes: `auto`, `off`, or names of `spec.plugins` with commas
            between.
        calibration: how ranges are found.
    """

    name: str = "linear+attention"
    linear: Linears = True
    attention: StrictBool = True
    residual: StrictBool = False
    embeddings: StrictBool = False
    gemm_output: StrictBool = False
    softmax_input: StrictBool = False
    weight_scales: WeightScales = "channel"
    smooth: Alpha | Literal[0] = AUTO_ALPHA
    keep: tuple[str, ...] = ()
    force: StrictBool = False
    plugins: StrictStr = AUTO
    calibration: CalibrationSettings = CalibrationSettings()

    @field_validator("plugins")
    @classmethod
    def _plugins(cls, value: str) -> str:
        return parse_plugins(value)

    @field_validator("linear", mode="before")
    @classmethod
    def _true_false_or_ffn(cls, value: object) -> object:
        if isinstance(value, bool) or value == "ffn":
            return value
        raise PydanticCustomError("linears", 'a valid boolean or "ffn"')

    @field_validator("smooth", mode="before")
    @classmethod
    def _auto_or_number(cls, value: object) -> object:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value == AUTO_ALPHA or (is_number and 0 <= float(value) <= 1):  # type: ignore[arg-type]
            return value
        raise PydanticCustomError("smooth", 'a number from 0 to 1, or "auto"')

    @property
    def needs_graph(self) -> bool:
        """It can only be placed in an ONNX graph, not in the modules of a PyTorch model."""
        switches = (self.residual, self.embeddings, self.gemm_output, self.softmax_input)
        return any(switches) or self.linear == "ffn" or self.weight_scales == "tensor"

    @property
    def alpha(self) -> Alpha | Literal[0]:
        """`smooth`, or 0 where plugins quantize what they make: those know no factors."""
        quantizing = named_families(self.plugins) & {"layernorm", "gelu"}
        return 0 if quantizing else self.smooth

    @property
    def is_guarded(self) -> bool:
        """One-sided outliers on a residual sum refuse it."""
        return self.residual and not self.force

    @property
    def warnings(self) -> tuple[str, ...]:
        """What to know before it is used, one sentence each."""
        found = []
        if self.residual:
            found.append(
                "residual sums become INT8, which costs accuracy, most of it where their outliers"
                " are one-sided; compare with linear+attention"
            )
        if self.softmax_input:
            found.append(
                "masked scores become the lowest INT8 score, not minus infinity: padding and"
                " masked tokens leak into the softmax"
            )
        if self.weight_scales == "tensor":
            found.append("one scale per weight tensor: channels with small weights lose accuracy")
        if self.smooth != self.alpha and "smooth" in self.model_fields_set:
            found.append(f"nothing is smoothed: the plugins {self.plugins} write INT8 themselves")
        return tuple(found)


def load_recipe(given: str | Path | None) -> Recipe:
    """A recipe by its name, or read from a TOML file; None gives the default recipe.

    Args:
        given: a name of `spec.ladder.LADDER`, or the path of a file. A Path is never a name.

    Raises:
        RecipeError: the name is unknown, the file is missing, is not TOML, or has an unknown or
            wrong setting.
    """
    if given is None:
        return Recipe()
    if isinstance(given, str):
        if given in LADDER:
            return Recipe.model_validate({"name": given, **LADDER[given].settings})
        if not given.endswith(".toml") and not (given and Path(given).exists()):
            raise RecipeError(
                f"recipe {given!r} is unknown",
                wanted=f"{NAMES}, or a .toml file",
                todo="correct it",
            )
        given = Path(given)
    recipe = _read(given)
    if not (recipe.linear or recipe.attention or recipe.residual or recipe.embeddings):
        raise RecipeError(
            f"recipe {str(given)!r} quantizes nothing",
            wanted="linear = true or attention = true",
            todo="switch one of them on",
        )
    return recipe


def _read(path: Path) -> Recipe:
    data = _toml(path)
    base = data.pop("base", None)
    if base is not None and (not isinstance(base, str) or base not in LADDER):
        raise _wrong(path, "base", base, NAMES)
    settings: dict[str, Any] = {} if base is None else LADDER[base].settings
    try:
        return Recipe.model_validate({"name": path.stem, **settings, **data})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        wanted = first["msg"][0].lower() + first["msg"][1:]
        if first["type"] == "extra_forbidden":
            known = CalibrationSettings if where.startswith("calibration.") else Recipe
            fields = [*known.model_fields, *(("base",) if known is Recipe else ())]
            wanted = f"only the settings {', '.join(fields)}"
        raise _wrong(path, where, first["input"], wanted) from error


def _wrong(path: Path, setting: str, value: object, wanted: str) -> RecipeError:
    return RecipeError(
        f"recipe {str(path)!r}: setting {setting!r} is {value!r}",
        wanted=wanted,
        todo=_HELP,
    )


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecipeError(
            f"no recipe file {str(path)!r}", wanted="a TOML file", todo="check the path"
        ) from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(
            f"recipe {str(path)!r} cannot be read ({error})",
            wanted="TOML text",
            todo=_HELP,
        ) from error
