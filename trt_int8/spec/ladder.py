"""The placement ladder: recipes by name, each with more in INT8 than the one before.

FT1 to FT3 are the quantizer sites of FasterTransformer's `int8_mode` 1 to 3 (its BERT example,
`quant_utils.py` and `modeling.py`; the guide explains modes 1 and 2), as far as Q/DQ can say them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rung:
    """A named recipe.

    Attributes:
        about: one line for people.
        settings: fields of `spec.recipe.Recipe` that differ from its defaults.
    """

    about: str
    settings: dict[str, Any]


# FasterTransformer does not smooth.
_FT1: dict[str, Any] = {"smooth": 0}
_FT2: dict[str, Any] = {**_FT1, "residual": True, "gemm_output": True, "weight_scales": "tensor"}

LADDER: dict[str, Rung] = {
    "ffn": Rung(
        "Linear layers of the feed-forward blocks alone", {"linear": "ffn", "attention": False}
    ),
    "linear": Rung("all Linear layers; attention stays one FP16 kernel", {"attention": False}),
    "linear+attention": Rung("the default: Linear layers and attention", {}),
    "full": Rung(
        "Linear layers, attention and residual sums, which share the pair of each LayerNorm",
        {"residual": True},
    ),
    "ft1": Rung(
        "FasterTransformer mode 1: the sites of linear+attention; residual sums stay FP16", _FT1
    ),
    "ft2": Rung(
        "FasterTransformer mode 2: INT8 residual sums and GEMM outputs, one scale per weight", _FT2
    ),
    "ft3": Rung(
        "FasterTransformer mode 3: as ft2, and the softmax input too",
        {**_FT2, "softmax_input": True},
    ),
}
NAMES = f"one of {', '.join(LADDER)}"
