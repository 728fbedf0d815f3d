"""Hand-written PTX around a few instructions, run by the interpreter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from tests.kernels.interpreter import Interpreter
from tests.kernels.report import RunReport
from trt_int8.plugins.kernel import Argument, Input, KernelLaunch, KernelVariant, Output

Array = NDArray[Any]
LANES = 32
HEAD = ".version 7.0\n.target sm_80\n.address_size 64\n"


def module(body: str, parameters: Sequence[str], directives: str = "", head: str = "") -> str:
    """A module with the entry "test".

    Args:
        body: declarations and instructions.
        parameters: PTX types without the dot, such as "u64"; named p0, p1, ...
        directives: such as ".maxntid 32".
        head: module-level declarations.
    """
    listed = ", ".join(f".param .{kind} p{i}" for i, kind in enumerate(parameters))
    return f"{HEAD}{head}\n.visible .entry test({listed}) {directives}\n{{\n{body}\n}}\n"


def launch(
    block: int = LANES, *, grid: tuple[int, int, int] = (1, 1, 1), shared_bytes: int = 0
) -> KernelLaunch:
    """A launch of the entry "test"."""
    return KernelLaunch(KernelVariant("test.cu", "test", 80), grid, block, shared_bytes)


def pointer_loads(count: int) -> str:
    """Declares %ptr0 .. and loads the first `count` parameters into them."""
    lines = [f".reg .b64 %ptr<{count}>;"]
    lines += [f"ld.param.u64 %ptr{i}, [p{i}];" for i in range(count)]
    return "\n".join(lines)


def run(
    body: str, arguments: Sequence[Argument], shape: KernelLaunch | None = None, **texts: str
) -> RunReport:
    """Run a body whose parameters follow from the arguments: u64 for arrays, u32 for integers."""
    kinds = ["u32" if isinstance(argument, int) else "u64" for argument in arguments]
    text = module(body, kinds, **texts)
    return Interpreter(instruction_limit=100_000).run_text(text, shape or launch(), arguments)


def each(instruction: str, sources: Sequence[Array], result: DTypeLike) -> Array:
    """Run instructions once per element of the sources.

    Args:
        instruction: reads registers %a, %b, %c, %e (the sources, in order) and writes %d. A
            register has the size of its array's elements, at least 16 bits. Predicates %p, %q and
            32-bit %t are free to use.
        sources: arrays of equal length.
        result: type of the answers.
    """
    out = np.zeros(sources[0].size, np.dtype(result))
    letters = "abce"[: len(sources)]
    arrays = [*sources, out]
    lines = [
        ".reg .pred %p, %q, %end;\n.reg .b32 %t, %i, %n, %block, %threads;\n.reg .b64 %at, %long;",
        *(
            f".reg .b{max(16, 8 * x.itemsize)} %{name};"
            for name, x in zip(letters + "d", arrays, strict=True)
        ),
        pointer_loads(len(arrays)),
        "mov.u32 %i, %tid.x;\nmov.u32 %block, %ctaid.x;\nmov.u32 %threads, %ntid.x;",
        "mad.lo.u32 %i, %block, %threads, %i;",
        f"setp.ge.u32 %end, %i, {out.size};\n@%end ret;\ncvt.u64.u32 %long, %i;",
    ]
    for k, (name, x) in enumerate(zip(letters, sources, strict=True)):
        kind = "s" if x.dtype.kind == "i" else "u"
        lines.append(f"mad.lo.u64 %at, %long, {x.itemsize}, %ptr{k};")
        lines.append(f"ld.global.{kind}{8 * x.itemsize} %{name}, [%at];")
    lines.append(instruction)
    lines.append(f"mad.lo.u64 %at, %long, {out.itemsize}, %ptr{len(sources)};")
    lines.append(f"st.global.b{8 * out.itemsize} [%at], %d;\nret;")
    blocks = (out.size + 127) // 128
    arguments: list[Argument] = [Input(np.ascontiguousarray(x)) for x in sources]
    run("\n".join(lines), [*arguments, Output(out)], launch(128, grid=(blocks, 1, 1)))
    return out


def integers(dtype: DTypeLike, count: int = 300, seed: int = 0) -> Array:
    """Random integers of a type, with its extremes, small numbers and every power of two."""
    limits = np.iinfo(np.dtype(dtype))
    special = {limits.min, limits.min + 1, limits.max, limits.max - 1, 0, 1, 2, 3}
    special |= {2**bit for bit in range(limits.bits - 1)}
    if limits.min < 0:
        special |= {-1, -2, -(limits.max // 2)}
    random = np.random.default_rng(seed)
    drawn = random.integers(limits.min, limits.max, count, dtype=dtype, endpoint=True)
    drawn[random.permutation(count)[: len(special)]] = np.array(sorted(special), dtype=dtype)
    return drawn


def floats(count: int = 400, seed: int = 0) -> NDArray[np.float32]:
    """Random float32 over many exponents, with zeros, infinities, NaN and subnormals."""
    random = np.random.default_rng(seed)
    scale = np.exp2(random.integers(-30, 30, count))
    drawn = (random.standard_normal(count) * scale).astype(np.float32)
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-40, 1.0, -1.0, 3.4e38, 0.5, 2.5, -1.5]
    drawn[random.permutation(count)[: len(special)]] = np.array(special, np.float32)
    return drawn


def same_floats(left: Array, right: Array) -> bool:
    """Equal bit for bit, except that any NaN equals any other."""
    nan = np.isnan(left) & np.isnan(right)
    bits = np.dtype(f"u{left.itemsize}")
    return bool(np.all(nan | (left.view(bits) == right.view(bits))))
