"""Which tensors of a float ONNX graph become INT8, by the same rules as for PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from trt_int8.annotate.keep import check_keep
from trt_int8.errors import RecipeError
from trt_int8.model.onnx_matmuls import AttentionSite, find_attentions, find_matmuls
from trt_int8.spec.recipe import Recipe, WeightMethod
from trt_int8.spec.rules import is_kept


@dataclass(frozen=True)
class OnnxPlan:
    """What to quantize in an ONNX graph.

    Attributes:
        operands: (node, operand index, tensor) whose operand gets the Q/DQ pair of `tensor`.
        results: tensors that get a pair for all their users (attention outputs).
        weights: nodes whose constant operand B becomes INT8 per output channel.
        weight_method: how the ranges of weights are found.
    """

    operands: tuple[tuple[str, int, str], ...]
    results: tuple[str, ...]
    weights: tuple[str, ...]
    weight_method: WeightMethod = "max"

    @property
    def tensors(self) -> tuple[str, ...]:
        """Activations that need a range, each once."""
        names = [tensor for _, _, tensor in self.operands] + list(self.results)
        return tuple(dict.fromkeys(names))


def plan_onnx(model: onnx.ModelProto, recipe: Recipe) -> OnnxPlan:
    """Apply the recipe to a float graph in normal form.

    Raises:
        RecipeError: nothing in the graph matches the recipe, or a `keep` pattern matches no
            matmul and no attention (named by its softmax or one of its two matmuls).
    """
    graph = ir.from_proto(model).graph
    matmuls, attentions = find_matmuls(model), find_attentions(graph)
    names = [site.node for site in matmuls] + [str(a.softmax.name) for a in attentions]
    check_keep(recipe, names)
    operands: list[tuple[str, int, str]] = []
    results: list[str] = []
    weights: list[str] = []
    if recipe.linear:
        nodes = {str(node.name): node for node in graph}
        for site in matmuls:
            if site.role == "linear" and not is_kept(site.node, recipe.keep):
                operands.append((site.node, 0, _name(nodes[site.node].inputs[0])))
                weights.append(site.node)
    if recipe.attention:
        for attention in attentions:
            parts = (attention.scores, attention.softmax, attention.context)
            if not any(is_kept(str(node.name), recipe.keep) for node in parts):
                operands += _attention_operands(attention)
                results.append(_name(attention.context.outputs[0]))
    if not operands:
        raise RecipeError(
            f"recipe {recipe.name!r} matches no node of the ONNX file",
            wanted="at least one MatMul or Gemm with a constant weight, or an attention",
            todo="check 'keep' and the recipe's switches",
        )
    method = recipe.calibration.weights
    return OnnxPlan(tuple(operands), tuple(results), tuple(weights), method)


def weights_of(model: onnx.ModelProto, plan: OnnxPlan) -> dict[str, NDArray[np.float32]]:
    """Per quantized tensor the weights [K, N] of all Linears that read it, side by side.

    Those the recipe keeps in FP16 are among them: the range of a tensor is then a matter of model,
    texts and method alone. A weight that is not a matrix stored in the file is left out.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer if len(tensor.dims) == 2}
    parts: dict[str, list[NDArray[np.float32]]] = {tensor: [] for tensor in plan.tensors}
    for node in model.graph.node:
        if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in stored:
            continue
        if node.input[0] in parts:
            weight = np.asarray(onnx.numpy_helper.to_array(stored[node.input[1]]), np.float32)
            turned = any(a.name == "transB" and a.i for a in node.attribute)
            parts[node.input[0]].append(weight.T if turned else weight)
    return {tensor: np.concatenate(found, axis=1) for tensor, found in parts.items() if found}


def _attention_operands(attention: AttentionSite) -> list[tuple[str, int, str]]:
    return [
        (str(node.name), index, _name(node.inputs[index]))
        for node in (attention.scores, attention.context)
        for index in (0, 1)
    ]


def _name(value: ir.Value | None) -> str:
    return str(value.name) if value is not None else ""
