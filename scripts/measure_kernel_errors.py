"""Measure how far the kernels are from float64, for docs/measured/kernel_errors.json.

    python -m scripts.measure_kernel_errors

Computed with the NumPy models, whose bits are those of the kernels on both CPU layers (the tests
compare them). `--page` is the page with the tables' marks.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.kernel_ladder.attention_error import (
    VALUE_MEANS,
    AttentionCase,
    error_ratios,
    lone_key_error,
    random_case,
)
from scripts.update_readme import replace_marked
from tests.plugins import gelu_cases, layernorm_cases
from tests.plugins.gelu_cases import exact_gelu
from trt_int8.files import write_whole
from trt_int8.plugins import integer_ops_model
from trt_int8.plugins.attention_model import int8_attention
from trt_int8.plugins.gelu import GeluForm, GeluScalars
from trt_int8.plugins.gelu_model import bias_gelu_quant
from trt_int8.plugins.integer_ops import IntegerGelu, IntegerLayerNorm, IntegerSoftmax
from trt_int8.plugins.layernorm import LayerNormForm
from trt_int8.plugins.layernorm_model import skip_layernorm_quant

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "trt_int8" / "plugins" / "README.md"
FIGURES = ROOT / "docs" / "measured" / "kernel_errors.json"

HEAD_DIMS, LENGTHS, SEEDS = (32, 64, 128), (17, 64, 113, 384, 512, 1023), 3
DEVIATIONS = (0.3, 1.0, 1.5, 3.0, 5.0, 10.0)
ELEMENTS = 1_500_000

Figures = dict[str, Any]

_ROWS: dict[str, LayerNormForm] = {
    "LayerNorm, H = 768, half, bias": LayerNormForm(768, bias=True),
    "LayerNorm, H = 768, int8": LayerNormForm(768, x="int8", residual="int8"),
    "LayerNorm, H = 4096, half": LayerNormForm(4096),
    "RMSNorm, H = 768, half": LayerNormForm(768, rms=True),
}
_GELUS: dict[str, tuple[GeluForm, float]] = {
    f"GELU ({name}), output_scale {scale}": (form, scale)
    for name, form in (
        ("erf, half", GeluForm(3072)),
        ("tanh, half", GeluForm(3072, tanh=True)),
        ("erf, int8", GeluForm(3072, "int8")),
    )
    for scale in (0.04, 0.001)
}


def main() -> None:
    """Measure everything, then write figures and page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, default=FIGURES)
    parser.add_argument("--page", type=Path, default=PAGE)
    choices = parser.parse_args()
    figures = {
        "attention": attention_errors(),
        "rows": {name: layernorm_errors(form) for name, form in _ROWS.items()}
        | {name: gelu_errors(form, scale) for name, (form, scale) in _GELUS.items()},
        "integer": integer_errors(),
    }
    write_whole(choices.json, (json.dumps(figures, indent=1) + "\n").encode())
    if choices.page.is_file():
        text = choices.page.read_text(encoding="utf-8")
        for mark, body in tables(figures).items():
            text = replace_marked(text, mark, body)
        write_whole(choices.page, text.encode())


def attention_errors() -> Figures:
    """Worst ratios of errors, by keys and deviation of the scores."""

    def attend(case: AttentionCase) -> NDArray[Any]:
        return int8_attention(case.options, case.scalars, case.tensors)

    def worst(keys: int, deviation: float) -> Figures:
        _progress("attention", keys, deviation)
        found = [
            error_ratios(
                attend,
                random_case(head_dim, keys, deviation=deviation, value_mean=mean, seed=seed),
            )
            for head_dim in HEAD_DIMS
            for mean in VALUE_MEANS
            for seed in range(SEEDS)
        ]
        return {
            "plain": round(max(one.plain for one in found), 3),
            "relative": round(max(one.relative for one in found), 3),
        }

    ratios = {str(s): {str(d): worst(s, d) for d in DEVIATIONS} for s in LENGTHS}
    lone = max(lone_key_error(attend, head_dim) for head_dim in HEAD_DIMS)
    return {"ratio": ratios, "lone_key": round(lone, 6)}


def layernorm_errors(form: LayerNormForm) -> Figures:
    """Codes apart from those of float64."""
    _progress("layernorm", form.hidden)
    tensors = layernorm_cases.random_tensors(form, ELEMENTS // form.hidden)
    found = skip_layernorm_quant(form, layernorm_cases.SCALARS, tensors).y
    exact = layernorm_cases.exact(form, layernorm_cases.SCALARS, tensors)
    return _apart(found, layernorm_cases.codes(exact.steps))


def gelu_errors(form: GeluForm, output_scale: float) -> Figures:
    """Codes apart from those of float64."""
    _progress("gelu", form.x, output_scale)
    x, bias = gelu_cases.random_tensors(form, ELEMENTS // form.hidden)
    scalars = GeluScalars(output_scale, gelu_cases.SCALARS.x_scale)
    found = bias_gelu_quant(form, scalars, x, bias)
    return _apart(found, gelu_cases.codes(gelu_cases.exact_steps(form, scalars, x, bias)))


def integer_errors() -> Figures:
    """Largest and root mean square error of the integer kernels, in real values."""
    _progress("integer kernels")
    rng = np.random.default_rng(0)
    errors: Figures = {}
    scores = np.rint(rng.normal(0, 2, (1000, 384)) / 1e-3).astype(np.int32)
    powers = np.exp((scores - scores.max(-1, keepdims=True)) * 1e-3)
    exact = powers / powers.sum(-1, keepdims=True)
    for signed, name in ((False, "i_softmax, uint8 of 1/256"), (True, "i_softmax, int8 of 1/127")):
        op = IntegerSoftmax(1e-3, signed)
        codes = integer_ops_model.softmax(op, scores)
        errors[name] = _real(codes * op.output_scale - exact, op.output_scale)
    gelu = IntegerGelu(1e-3, 0.04)
    x = np.arange(-4000, 4001, dtype=np.int32)
    codes = integer_ops_model.gelu(gelu, x)
    wanted = exact_gelu(x.astype(np.float64) * gelu.scale, tanh=False)
    errors["i_gelu on [-4, 4]"] = _real(codes * gelu.output_scale - wanted, gelu.output_scale)
    gamma = rng.uniform(0.3, 2.0, 768)
    beta = rng.normal(0, 1, 768)
    norm = IntegerLayerNorm(tuple(gamma.tolist()), tuple(beta.tolist()), 0.05)
    rows = np.rint(rng.normal(0, 1 << 18, (1000, 768))).astype(np.int32)
    wanted = (rows - rows.mean(-1, keepdims=True)) / rows.std(-1, keepdims=True) * gamma + beta
    wanted = np.clip(wanted, -128 * 0.05, 127 * 0.05)
    codes = integer_ops_model.layernorm(norm, rows)
    errors["i_layernorm, 768 channels"] = _real(codes * norm.output_scale - wanted, 0.05)
    return errors


def tables(figures: Mapping[str, Any]) -> dict[str, str]:
    """Bodies of the page's marked parts, by mark."""
    made: dict[str, Callable[[Any], list[str]]] = {
        "attention-errors": _attention_table,
        "rows-errors": _rows_table,
        "integer-errors": _integer_table,
    }
    parts = {"attention-errors": "attention", "rows-errors": "rows", "integer-errors": "integer"}
    return {mark: "\n".join(table(figures[parts[mark]])) for mark, table in made.items()}


def _attention_table(figures: Mapping[str, Any]) -> list[str]:
    ratios = figures["ratio"]
    deviations = list(next(iter(ratios.values())))
    return [
        f"| keys | {' | '.join(f'scores of deviation {each}' for each in deviations)} |",
        "|---" * (len(deviations) + 1) + "|",
        *(
            f"| {keys} | "
            + " | ".join(
                f"{row[each]['plain']:.2f}, {row[each]['relative']:.1f}" for each in deviations
            )
            + " |"
            for keys, row in ratios.items()
        ),
        f"| 1 | weight off by at most {figures['lone_key']:.2%} |" + " |" * (len(deviations) - 1),
    ]


def _pair(ratios: Mapping[str, float]) -> str:
    return f"{ratios['plain']:.2f}, {ratios['relative']:.1f}"


def _rows_table(figures: Mapping[str, Any]) -> list[str]:
    return [
        "| | elements | codes apart | per million | by at most |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {row['elements']:,} | {row['apart']} "
            f"| {1e6 * row['apart'] / row['elements']:.1f} | {row['steps']} |"
            for name, row in figures.items()
        ),
    ]


def _integer_table(figures: Mapping[str, Any]) -> list[str]:
    return [
        "| | largest error | root mean square | half a step of the output |",
        "|---|---|---|---|",
        *(
            f"| {name} | {row['largest']:.4f} | {row['rms']:.4f} | {row['half_step']:.4f} |"
            for name, row in figures.items()
        ),
    ]


def _apart(found: NDArray[Any], exact: NDArray[Any]) -> Figures:
    steps = np.abs(found.astype(int) - exact.astype(int))
    return {
        "elements": int(steps.size),
        "apart": int(np.count_nonzero(steps)),
        "steps": int(steps.max()),
    }


def _real(error: NDArray[Any], step: float) -> Figures:
    largest, rms = float(np.abs(error).max()), float(np.sqrt((error**2).mean()))
    return {"largest": round(largest, 6), "rms": round(rms, 6), "half_step": round(step / 2, 6)}


def _progress(*words: object) -> None:
    sys.stderr.write(f"errors: {' '.join(map(str, words))}\n")


if __name__ == "__main__":
    main()
