"""Tiny models whose ranges can be worked out by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

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


def halver(*, unused: bool = False) -> tuple[Any, AnnotatedModel]:
    """What `collect_ranges` needs of a text model, and its quantizers."""
    module = Halver()
    sites = {"half": module.halved, "shifted": module.shifted}
    annotated = AnnotatedModel(sites | ({"unused": module.unused} if unused else {}), {})
    annotated.enable(quantize=False)
    return SimpleNamespace(wrapper=module, input_names=("ids",)), annotated


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
