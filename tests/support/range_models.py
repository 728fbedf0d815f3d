"""Tiny models whose ranges can be worked out by hand."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper
from pytorch_quantization.nn.modules.tensor_quantizer import TensorQuantizer
from pytorch_quantization.tensor_quant import QuantDescriptor
from torch import Tensor, nn

from trt_int8.annotate.torch_model import AnnotatedModel
from trt_int8.calibrate.texts import TokenArrays


class Halver(nn.Module):
    """Site `half` is ids / 2, site `shifted` (the output) half - 10.

    An id of 99 gives NaN; one of 88 gives infinity in `half`, and 0 after it.
    """

    def __init__(self) -> None:
        super().__init__()
        descriptor = QuantDescriptor(num_bits=8)
        self.halved = TensorQuantizer(descriptor)
        self.shifted = TensorQuantizer(descriptor)
        self.unused = TensorQuantizer(descriptor)

    def forward(self, ids: Tensor) -> tuple[Tensor]:
        real = torch.where(ids == 99, torch.full((), torch.nan), ids / 2)
        real = torch.where(ids == 88, torch.full((), torch.inf), real)
        shifted = torch.where(ids == 88, torch.zeros(()), self.halved(real) - 10)
        return (self.shifted(shifted),)


def halver(*, unused: bool = False) -> tuple[Halver, AnnotatedModel]:
    """The model and its quantizers."""
    module = Halver()
    sites = {"half": module.halved, "shifted": module.shifted}
    return module, _switched_off(sites | ({"unused": module.unused} if unused else {}))


class Repeater(nn.Module):
    """One layer used twice, as in ALBERT: its two sites see ids / 2, then ids / 2 + 100.

    Places whose mask is 0 hold NaN, in the output too.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first = TensorQuantizer(QuantDescriptor(num_bits=8))
        self.second = TensorQuantizer(QuantDescriptor(num_bits=8))

    def forward(self, ids: Tensor, attention_mask: Tensor) -> tuple[Tensor]:
        x = torch.where(attention_mask == 0, torch.full((), torch.nan), ids / 2)
        for shift in (0.0, 100.0):
            x = x + shift
            self.first(x)
            self.second(x)
        return (x,)


def repeater() -> tuple[Repeater, AnnotatedModel]:
    """The model and its quantizers."""
    module = Repeater()
    return module, _switched_off({"first": module.first, "second": module.second})


def _switched_off(sites: dict[str, TensorQuantizer]) -> AnnotatedModel:
    annotated = AnnotatedModel(sites, {})
    annotated.enable(quantize=False)
    return annotated


def ids(*rows: list[int]) -> TokenArrays:
    return {"ids": np.array(rows, np.int64)}


def halver_onnx() -> onnx.ModelProto:
    """`Halver` as a graph: tensors `half` and `shifted`; `shifted` is its output."""
    nodes = [
        helper.make_node("Cast", ["ids"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["real", "factor"], ["half"]),
        helper.make_node("Sub", ["half", "ten"], ["shifted"]),
    ]
    graph = helper.make_graph(
        nodes,
        "halver",
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "seq"])],
        [helper.make_tensor_value_info("shifted", TensorProto.FLOAT, ["batch", "seq"])],
        [
            helper.make_tensor("factor", TensorProto.FLOAT, [], [0.5]),
            helper.make_tensor("ten", TensorProto.FLOAT, [], [10.0]),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
