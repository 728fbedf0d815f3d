"""Calibration methods by name: `max`, `percentile:99.99`, `entropy:stride=8,start=64`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trt_int8.errors import RecipeError
from trt_int8.spec.base import Frozen


@dataclass(frozen=True)
class Setting:
    """One number of a method: its default and the values it may have, both ends included."""

    default: float
    low: float
    high: float
    whole: bool = False


@dataclass(frozen=True)
class MethodKind:
    """What a method is called, can be told, and needs to see.

    Attributes:
        about: one line for people.
        settings: by name; the first may be given without its name.
        histogram: it reads the histogram of all values.
        rows: it reads the sample of rows.
        weight: it reads the weight that the tensor is multiplied by.
        symmetric: it gives one amax; else a low and a high end, for affine quantization.
    """

    about: str
    settings: dict[str, Setting]
    histogram: bool = False
    rows: bool = False
    weight: bool = False
    symmetric: bool = True


_SMALLEST_PERCENT = 1e-6
_MOMENTUM = Setting(0.9, 0.0, 1.0 - 1e-9)
_SEARCH = {
    "stride": Setting(1, 1, 4096, whole=True),
    "start": Setting(128, 1, 4096, whole=True),
}

METHODS: dict[str, MethodKind] = {
    "max": MethodKind("largest |x|", {}),
    "moving-average": MethodKind("moving average of the batches' largest |x|", {"m": _MOMENTUM}),
    "percentile": MethodKind(
        "bound of p % of all |x|", {"p": Setting(99.99, _SMALLEST_PERCENT, 100.0)}, histogram=True
    ),
    "entropy": MethodKind("least KL divergence of the histogram", _SEARCH, histogram=True),
    "mse": MethodKind("least mean squared error of the tensor", {}, histogram=True),
    "aciq-gauss": MethodKind("analytic clipping of a normal distribution", {}, histogram=True),
    "aciq-laplace": MethodKind("analytic clipping of a Laplace distribution", {}, histogram=True),
    "sqnr": MethodKind("least relative error of a token, on average", {}, rows=True),
    "output": MethodKind(
        "least relative error of a token's matmul output, on average", {}, rows=True, weight=True
    ),
    "kl-symmetric": MethodKind("Bhandare: KL of |x|", _SEARCH, histogram=True),
    "kl-conjugate": MethodKind("Bhandare: KL of each side, the larger", _SEARCH, histogram=True),
    "kl-independent": MethodKind(
        "Bhandare: KL of each side", _SEARCH, histogram=True, symmetric=False
    ),
    "affine-minmax": MethodKind("smallest and largest x", {}, symmetric=False),
    "affine-current": MethodKind("smallest and largest x of the last batch", {}, symmetric=False),
    "affine-mse": MethodKind(
        "least mean squared error, affine", {}, histogram=True, symmetric=False
    ),
}


class Method(Frozen):
    """A method with all its settings.

    Attributes:
        name: a key of `METHODS`.
        settings: every setting of that method.
    """

    name: str
    settings: dict[str, float]

    @property
    def kind(self) -> MethodKind:
        """What is known of the method."""
        return METHODS[self.name]

    @property
    def label(self) -> str:
        """The shortest text that `parse_method` reads back; all digits of each number."""
        known = self.kind.settings
        given = {k: v for k, v in self.settings.items() if v != known[k].default}
        first = next(iter(known), None)
        if set(known) == {first} and first is not None:
            return f"{self.name}:{_number(self.settings[first])}"
        listed = ",".join(f"{key}={_number(value)}" for key, value in given.items())
        return f"{self.name}:{listed}" if listed else self.name


def parse_method(text: str) -> Method:
    """Read `name`, `name:number` or `name:setting=number,…`.

    Raises:
        RecipeError: an unknown method or setting, or a number out of range.
    """
    name, _, rest = text.strip().partition(":")
    if name not in METHODS:
        raise RecipeError(
            f"calibration method {name!r} is unknown",
            wanted=f"one of {', '.join(METHODS)}",
            todo="correct it",
        )
    known = METHODS[name].settings
    given: dict[str, float] = {}
    for part in rest.split(",") if rest else ():
        key, equals, number = (piece.strip() for piece in part.partition("="))
        if not equals:
            key, number = next(iter(known), ""), part
        if key not in known or key in given:
            again = f", a second {key}" if key in given else ""
            raise RecipeError(
                f"method {text!r} has the setting {part!r}{again}",
                wanted=f"only {', '.join(known) or 'the name'}",
                todo="leave it out",
            )
        given[key] = _read_number(text, number, known[key])
    defaults = {key: setting.default for key, setting in known.items()}
    return Method(name=name, settings=defaults | given)


def parse_methods(text: str) -> tuple[Method, ...]:
    """Read a comma-separated list; a part such as `start=64` belongs to the method before it.

    Raises:
        RecipeError: of one method, or a method named twice.
    """
    parts: list[str] = []
    for part in text.split(","):
        head = part.partition(":")[0].strip()
        if parts and "=" in head:
            parts[-1] += f"{',' if ':' in parts[-1] else ':'}{part.strip()}"
        else:
            parts.append(part.strip())
    methods = tuple(parse_method(part) for part in parts)
    labels = [method.label for method in methods]
    for label in labels:
        if labels.count(label) > 1:
            raise RecipeError(f"method {label!r} is named twice", wanted="once", todo="correct it")
    return methods


def _read_number(text: str, number: str, setting: Setting) -> float:
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    whole = not setting.whole or value == int(value) if math.isfinite(value) else False
    if not (whole and setting.low <= value <= setting.high):
        kind = "a whole number" if setting.whole else "a number"
        raise RecipeError(
            f"method {text!r} has the number {number!r}",
            wanted=f"{kind} from {_number(setting.low)} to {_number(setting.high)}",
            todo="correct it",
        )
    return value


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else repr(value)
