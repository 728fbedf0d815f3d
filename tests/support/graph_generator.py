"""Seeded random DAGs of a Transformer's operators with Q/DQ in every legal form."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tests.support.onnx_tiny import Shape, Tiny, f32

ROWS, WIDTH = 3, 8
_KINDS = ("pair", "matmul", "gemm", "add", "mul", "relu", "softmax", "norm", "turn", "fold")
_MORE = ("concat", "split", "product", "gather", "flowing")


class GraphGenerator:
    """Grows a graph `x` float32 [3, 8] -> `y` float32 [3, 8]; tensors between are mostly so."""

    def __init__(self, seed: int) -> None:
        """Everything follows from the seed."""
        self._random = np.random.default_rng(seed)
        self._tiny = Tiny()
        self._count = 0
        self._opset = int(self._random.choice([13, 17, 19]))

    def model(self) -> onnx.ModelProto:
        """A new graph."""
        tensors = ["x"]
        for _ in range(int(self._random.integers(2, 12))):
            source = tensors[int(self._random.integers(len(tensors)))]
            other = tensors[int(self._random.integers(len(tensors)))]
            kind = str(self._random.choice(_KINDS + _MORE))
            made = getattr(self, f"_{kind}")(source, other)
            tensors.append(made)
        left = tensors[-1]
        for value in tensors[-3:-1]:
            left = self._tiny.op("Add", left, value)
        self._tiny.op("Neg", left, out="y")
        shape: Shape = [ROWS, WIDTH]
        return self._tiny.build({"x": shape}, {"y": shape}, opset=self._opset)

    def _name(self, base: str) -> str:
        self._count += 1
        return f"{base}{self._count}"

    def _noise(self, *shape: int) -> NDArray[np.float32]:
        return f32(self._random.standard_normal(shape))

    def _params(self, scale: NDArray[np.float32] | float, zero: int, kind: str) -> list[str]:
        steps = f32(scale)
        points = np.full(steps.shape, zero, kind)
        return [
            self._tiny.const(self._name("scale"), steps),
            self._tiny.const(self._name("zero"), points),
        ]

    def _pair(self, source: str, _: str = "") -> str:
        """Q/DQ as int8 or centered uint8; DQ shared or one each; constants shared or not."""
        scale = float(self._random.choice([0.03, 0.05, 0.1]))
        zero, kind = ((0, "i1"), (128, "u1"))[int(self._random.integers(2))]
        params = self._params(scale, zero, kind)
        codes = self._tiny.op("QuantizeLinear", source, *params)
        again = params if self._random.random() < 0.5 else self._params(scale, zero, kind)
        return self._tiny.op("DequantizeLinear", codes, *again)

    def _flowing(self, source: str, _: str) -> str:
        """Codes that pass layout operators, and sometimes a Relu, before they are dequantized."""
        params = self._params(0.05, 0, "i1")
        codes = self._tiny.op("QuantizeLinear", source, *params)
        if self._random.random() < 0.5:
            shape = self._tiny.const(self._name("shape"), np.array([WIDTH, ROWS]))
            back = self._tiny.const(self._name("shape"), np.array([ROWS, WIDTH]))
            codes = self._tiny.op("Reshape", self._tiny.op("Reshape", codes, shape), back)
        else:
            turned = self._tiny.op("Transpose", codes, perm=[1, 0])
            codes = self._tiny.op("Transpose", turned, perm=[1, 0])
        return self._tiny.op("DequantizeLinear", codes, *params)

    def _weight(self) -> tuple[str, bool]:
        """A weight [8, 8] in one of its forms; tells whether it is stored [N, K]."""
        values = self._noise(WIDTH, WIDTH)
        form = str(self._random.choice(["float", "pair", "codes", "shifted", "centered"]))
        per_channel, turned = self._random.random() < 0.6, self._random.random() < 0.5
        axis = 0 if turned else 1
        name = self._name("weight")
        if form == "float":
            return self._tiny.const(name, values), turned
        amax = np.abs(values).max(axis=1 - axis) if per_channel else np.abs(values).max()
        scale = f32(amax / 127)
        attributes: dict[str, Any] = {"axis": axis} if per_channel else {}
        if form == "pair":
            params = self._params(scale, 0, "i1")
            codes = self._tiny.op(
                "QuantizeLinear", self._tiny.const(name, values), *params, **attributes
            )
            return self._tiny.op("DequantizeLinear", codes, *params, **attributes), turned
        along = scale.reshape((-1, 1) if axis == 0 else (1, -1)) if per_channel else scale
        zero, kind = {"codes": (0, "i1"), "centered": (128, "u1"), "shifted": (5, "i1")}[form]
        limits = np.iinfo(kind)
        # Small enough that code minus zero point fits int8 in every form.
        codes_of = np.clip(np.rint(values / along) * 0.9 + zero, limits.min, limits.max)
        stored = self._tiny.const(name, np.rint(codes_of).astype(kind))
        params = self._params(scale, zero, kind)
        return self._tiny.op("DequantizeLinear", stored, *params, **attributes), turned

    def _matmul(self, source: str, _: str) -> str:
        operand, turned = self._weight()
        if turned:
            operand = self._tiny.op("Transpose", operand, perm=[1, 0])
        value = self._pair(source) if self._random.random() < 0.7 else source
        return self._tiny.op("Tanh", self._tiny.op("MatMul", value, operand))

    def _gemm(self, source: str, _: str) -> str:
        operand, turned = self._weight()
        bias = self._tiny.const(self._name("bias"), self._noise(WIDTH))
        if self._random.random() < 0.5:
            codes = self._random.integers(-900, 900, WIDTH).astype(np.int32)
            params = self._params(f32(np.full(WIDTH, 0.001)), 0, "i4")
            stored = self._tiny.const(self._name("bias"), codes)
            bias = self._tiny.op("DequantizeLinear", stored, *params, axis=0)
        product = self._tiny.op("Gemm", self._pair(source), operand, bias, transB=int(turned))
        return self._tiny.op("Tanh", product)

    def _add(self, source: str, other: str) -> str:
        return self._tiny.op("Add", source, other)

    def _mul(self, source: str, other: str) -> str:
        return self._tiny.op("Mul", self._tiny.op("Tanh", source), other)

    def _relu(self, source: str, _: str) -> str:
        return self._tiny.op("Relu", source)

    def _softmax(self, source: str, _: str) -> str:
        return self._tiny.op("Softmax", source, axis=-1)

    def _norm(self, source: str, _: str) -> str:
        """LayerNormalization, one operator or several; its weight is codes of any zero point."""
        stored = self._random.integers(0, 255, WIDTH).astype("u1")
        weight = self._tiny.const(self._name("gain"), stored)
        gain = self._tiny.op("DequantizeLinear", weight, *self._params(0.01, 7, "u1"))
        if self._opset >= 17:
            return self._tiny.op("LayerNormalization", source, gain)
        mean = self._tiny.op("ReduceMean", source, axes=[-1])
        centered = self._tiny.op("Sub", source, mean)
        square = self._tiny.op("Mul", centered, centered)
        variance = self._tiny.op("ReduceMean", square, axes=[-1])
        floor = self._tiny.const(self._name("epsilon"), f32(0.1))
        size = self._tiny.op("Sqrt", self._tiny.op("Add", variance, floor))
        return self._tiny.op("Mul", self._tiny.op("Div", centered, size), gain)

    def _turn(self, source: str, _: str) -> str:
        turned = self._tiny.op("Transpose", self._pair(source), perm=[1, 0])
        return self._tiny.op("Transpose", self._pair(turned), perm=[1, 0])

    def _fold(self, source: str, _: str) -> str:
        shape = self._tiny.const(self._name("shape"), np.array([WIDTH, ROWS]))
        back = self._tiny.const(self._name("shape"), np.array([ROWS, WIDTH]))
        return self._tiny.op("Reshape", self._tiny.op("Reshape", source, shape), back)

    def _concat(self, source: str, other: str) -> str:
        both = self._tiny.op("Concat", source, self._pair(other), axis=1)
        ends = [self._tiny.const(self._name("at"), np.array([at])) for at in (4, 4 + WIDTH, 1)]
        return self._tiny.op("Slice", both, *ends)

    def _split(self, source: str, _: str) -> str:
        sizes = self._tiny.const(self._name("sizes"), np.array([3, 5]))
        left, right = self._name("left"), self._name("right")
        node = onnx.helper.make_node(
            "Split", [source, sizes], [left, right], name=self._name("split"), axis=1
        )
        self._tiny.nodes.append(node)
        return self._tiny.op("Concat", right, left, axis=1)

    def _product(self, source: str, other: str) -> str:
        """An activation times an activation, both quantized, as in attention."""
        turned = self._tiny.op("Transpose", self._pair(other), perm=[1, 0])
        scores = self._tiny.op("MatMul", self._pair(source), turned)
        weights = self._pair(self._tiny.op("Softmax", scores, axis=-1))
        return self._tiny.op("MatMul", weights, self._pair(other))

    def _gather(self, source: str, _: str) -> str:
        """Rows of a quantized table, dequantized before or after they are picked."""
        table = self._random.integers(-99, 99, (5, WIDTH)).astype("i1")
        stored = self._tiny.const(self._name("table"), table)
        rows = self._tiny.const(self._name("rows"), self._random.integers(0, 5, ROWS))
        params = self._params(0.01, int(self._random.choice([0, 3])), "i1")
        if self._random.random() < 0.5:
            picked = self._tiny.op("Gather", stored, rows)
            return self._tiny.op("Add", source, self._tiny.op("DequantizeLinear", picked, *params))
        real = self._tiny.op("DequantizeLinear", stored, *params)
        return self._tiny.op("Add", source, self._tiny.op("Gather", real, rows))
