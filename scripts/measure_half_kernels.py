"""Read which kernels TensorRT-RTX makes of operators in half, for docs/profiles.md.

    python -m scripts.measure_half_kernels

One small FP16 graph per operator, real engines for SM75 and SM80. Kernel names and the number
types of their reductions go to docs/measured/half_kernels.json and into the page.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto

from scripts.update_readme import replace_marked
from tests.support.attention_block import request_for
from tests.support.onnx_tiny import Tiny
from trt_int8.engine import layers_block
from trt_int8.engine.build import build_engines
from trt_int8.files import write_whole
from trt_int8.spec.shapes import DimRange, input_shape

DOCS = Path(__file__).parent.parent / "docs"
_PAGE, _MARK = "profiles.md", "half-kernels"
_SMS = (75, 80)
_CHANNELS = 128
_KERNEL = re.compile(r"__myl_(\w+)_myl\d+_\d+")
# In the source text of the kernels: a reduction, or the norm of a library, and the number type it
# sums in. `AddOp<…>::identity`, a start value, is no reduction.
_REDUCTION = re.compile(rb"(\w+Op|block_norm)<__myln_(half|float)>?,")

# Per SM ("sm75") the names of its kernels, and its reductions with their types.
Row = dict[str, dict[str, list[str]]]


def main() -> None:
    """Build all graphs, then write figures and page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--docs", type=Path, default=DOCS, help="folder of page and figures")
    docs = parser.parse_args().docs
    rows = {name: measure(make()) for name, make in OPERATORS.items()}
    figures = json.dumps(rows, indent=1, sort_keys=True) + "\n"
    write_whole(docs / "measured" / "half_kernels.json", figures.encode())
    text = replace_marked((docs / _PAGE).read_text(encoding="utf-8"), _MARK, table(rows))
    write_whole(docs / _PAGE, text.encode())


def measure(model: onnx.ModelProto) -> Row:
    """Build the graph for each SM and read names and reductions of its kernels."""
    # x is [B, 128, S] for InstanceNormalization, else [B, S, 128].
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dynamic = {"B": DimRange(min=1, opt=2, max=3), "S": DimRange(min=16, opt=72, max=128)}
    fixed = DimRange(min=_CHANNELS, opt=_CHANNELS, max=_CHANNELS)
    profile = (input_shape("x", [dynamic.get(dim.dim_param, fixed) for dim in dims]),)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "operator.onnx"
        onnx.save(model, str(path))
        requests = {
            f"sm{sm}": request_for(path, sm).model_copy(update={"profiles": (profile,)})
            for sm in _SMS
        }
        build_engines(requests, 1, lambda label, fraction: None)
        return {
            label: {
                "kernels": kernels(Path(request.evidence_path).read_text(encoding="utf-8")),
                "reductions": reductions(Path(request.engine_path).read_bytes()),
            }
            for label, request in requests.items()
        }


def kernels(listing: str) -> list[str]:
    """Names of the kernels in a builder's listing, in their order, without what only numbers."""
    found = (_KERNEL.fullmatch(layer.name) for layer in layers_block.parse(listing))
    return [match[1] for match in found if match]


def reductions(engine: bytes) -> list[str]:
    """`AddOp<float>` and the like in the source text that an engine holds, each once."""
    return sorted({f"{kind.decode()}<{of.decode()}>" for kind, of in _REDUCTION.findall(engine)})


def table(rows: Mapping[str, Row]) -> str:
    """The rows as Markdown; what is equal for both SMs is written once."""
    lines = ["| operator in half | kernels | reductions in their source |", "|---|---|---|"]
    for name, row in rows.items():
        cells = []
        for key in ("kernels", "reductions"):
            texts = [", ".join(f"`{each}`" for each in row[sm][key]) for sm in sorted(row)]
            cells.append(" / ".join(dict.fromkeys(texts)))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _graph(make: Callable[[Tiny], str], axes: tuple[int | str, ...]) -> onnx.ModelProto:
    tiny = Tiny()
    tiny.op("Identity", make(tiny), out="y")
    shape = list(axes)
    return tiny.build({"x": shape}, {"y": shape}, dtype=TensorProto.FLOAT16)


def _half(tiny: Tiny, name: str, value: float) -> str:
    return tiny.const(name, np.float16(value))


def _affine(tiny: Tiny) -> tuple[str, str]:
    ones = np.ones(_CHANNELS, np.float16)
    return tiny.const("gamma", ones), tiny.const("beta", ones * 0)


def _layer_norm(tiny: Tiny) -> str:
    return tiny.op("LayerNormalization", "x", *_affine(tiny), axis=-1)


def _instance_norm(tiny: Tiny) -> str:
    return tiny.op("InstanceNormalization", "x", *_affine(tiny))


def _primitives(tiny: Tiny) -> str:
    centred = tiny.op("Sub", "x", tiny.op("ReduceMean", "x", axes=[-1]))
    variance = tiny.op("ReduceMean", tiny.op("Mul", centred, centred), axes=[-1])
    return tiny.op("Div", centred, tiny.op("Sqrt", variance))


def _gelu_erf(tiny: Tiny) -> str:
    erf = tiny.op("Erf", tiny.op("Div", "x", _half(tiny, "root", 2**0.5)))
    product = tiny.op("Mul", "x", tiny.op("Add", erf, _half(tiny, "one", 1.0)))
    return tiny.op("Mul", product, _half(tiny, "half", 0.5))


def _gelu_tanh(tiny: Tiny) -> str:
    cube = tiny.op("Mul", tiny.op("Mul", "x", "x"), "x")
    inner = tiny.op("Add", "x", tiny.op("Mul", cube, _half(tiny, "k", 0.044715)))
    tanh = tiny.op("Tanh", tiny.op("Mul", inner, _half(tiny, "s", (2 / np.pi) ** 0.5)))
    halved = tiny.op("Mul", "x", _half(tiny, "half", 0.5))
    return tiny.op("Mul", halved, tiny.op("Add", tanh, _half(tiny, "one", 1.0)))


_TOKENS = ("B", "S", _CHANNELS)
OPERATORS: dict[str, Callable[[], onnx.ModelProto]] = {
    "LayerNormalization": lambda: _graph(_layer_norm, _TOKENS),
    "InstanceNormalization": lambda: _graph(_instance_norm, ("B", _CHANNELS, "S")),
    "LayerNorm from primitives": lambda: _graph(_primitives, _TOKENS),
    "Softmax": lambda: _graph(lambda tiny: tiny.op("Softmax", "x", axis=-1), _TOKENS),
    "Erf": lambda: _graph(lambda tiny: tiny.op("Erf", "x"), _TOKENS),
    "GELU by erf": lambda: _graph(_gelu_erf, _TOKENS),
    "GELU by tanh": lambda: _graph(_gelu_tanh, _TOKENS),
}


if __name__ == "__main__":
    main()
