"""Which tensors of a float ONNX graph become INT8, by the same rules as for PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from trt_int8.annotate.guard import AttentionGuard, sizes_of
from trt_int8.annotate.keep import check_keep
from trt_int8.annotate.placement import Placement
from trt_int8.errors import RecipeError
from trt_int8.model.onnx_blocks import MATMULS, Blocks, find_blocks
from trt_int8.spec.recipe import Recipe, WeightMethod, WeightScales
from trt_int8.spec.rules import PlacementNote


@dataclass(frozen=True)
class OnnxPlan:
    """What to quantize in an ONNX graph.

    Attributes:
        operands: (node, operand index, tensor) whose operand gets the Q/DQ pair of `tensor`.
        results: tensors that get a pair for all their users (attention outputs).
        weights: nodes whose constant operand B becomes INT8.
        weight_method: how the ranges of weights are found.
        weight_scales: one scale per output `channel` of a weight, or one per `tensor`.
        same_weight_scale: nodes of `weights` that share the one scale of their tensors.
        same_scale: tensors that share the largest of their ranges.
        tables: Gather nodes whose table becomes INT8, one scale per row.
        residual: those of `tensors` that skip arms of residual sums read.
        notes: nodes that stay float against the recipe, and why.
    """

    operands: tuple[tuple[str, int, str], ...]
    results: tuple[str, ...]
    weights: tuple[str, ...]
    weight_method: WeightMethod = "max"
    weight_scales: WeightScales = "channel"
    same_weight_scale: tuple[tuple[str, ...], ...] = ()
    same_scale: tuple[tuple[str, ...], ...] = ()
    tables: tuple[str, ...] = ()
    residual: tuple[str, ...] = ()
    notes: tuple[PlacementNote, ...] = ()

    @property
    def tensors(self) -> tuple[str, ...]:
        """Activations that need a range, each once."""
        names = [tensor for _, _, tensor in self.operands] + list(self.results)
        return tuple(dict.fromkeys(names))


def plan_onnx(
    model: onnx.ModelProto, recipe: Recipe, guard: AttentionGuard | None = None
) -> OnnxPlan:
    """Apply the recipe to a float graph in normal form.

    Args:
        model: the graph.
        recipe: what to quantize.
        guard: targets and lengths; an attention that no fused INT8 kernel serves stays FP16. None
            to quantize every attention.

    Raises:
        RecipeError: nothing in the graph matches the recipe, or a `keep` pattern matches no
            matmul, no attention (named by its softmax or one of its two matmuls), no residual sum
            and no embedding.
    """
    graph = ir.from_proto(model).graph
    blocks = find_blocks(graph)
    check_keep(recipe, _names_to_keep(graph, blocks))
    refusals = [""] * len(blocks.attentions)
    if guard is not None:
        refusals = [guard.refusal(size) for size in sizes_of(model, blocks.attentions)]
    found = Placement(graph, recipe, blocks)
    if recipe.linear:
        found.linears()
    if recipe.attention:
        found.attentions(refusals)
    if recipe.residual:
        found.residuals()
    if recipe.gemm_output:
        found.gemm_outputs()
    if recipe.embeddings:
        found.embeddings()
    if not (found.operands or found.tables):
        why = f" ({found.notes[0].node!r}: {found.notes[0].reason})" if found.notes else ""
        raise RecipeError(
            f"recipe {recipe.name!r} matches no node of the ONNX file{why}",
            wanted="at least one MatMul or Gemm with a constant weight, or an attention",
            todo="check 'keep' and the recipe's switches",
        )
    per_tensor = recipe.weight_scales == "tensor"
    return OnnxPlan(
        operands=tuple(found.operands),
        results=tuple(found.results),
        weights=tuple(found.weights),
        weight_method=recipe.calibration.weights,
        weight_scales=recipe.weight_scales,
        same_weight_scale=found.same_weight_scale() if per_tensor else (),
        same_scale=found.same_scale(),
        tables=tuple(found.tables),
        residual=tuple(dict.fromkeys(found.residual)),
        notes=tuple(found.notes),
    )


def _names_to_keep(graph: ir.Graph, blocks: Blocks) -> list[str]:
    """Matmuls first: they are shown as examples of names."""
    nodes = [node for node in graph if node.op_type in MATMULS]
    nodes += [each.softmax for each in blocks.attentions]
    nodes += [each.add for each in blocks.residuals]
    return [str(node.name) for node in (*nodes, *blocks.embeddings)]


def weights_of(model: onnx.ModelProto, plan: OnnxPlan) -> dict[str, NDArray[np.float32]]:
    """Per quantized tensor the weights [K, N] of all Linears that read it, side by side.

    Those the recipe keeps in FP16 are among them: the range of a tensor is then a matter of model,
    texts and method alone. A weight that is not a matrix stored in the file is left out.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer if len(tensor.dims) == 2}
    parts: dict[str, list[NDArray[np.float32]]] = {tensor: [] for tensor in plan.tensors}
    reshaped = {n.output[0]: n.input[0] for n in model.graph.node if n.op_type == "Reshape"}
    for node in model.graph.node:
        if node.op_type not in MATMULS or node.input[1] not in stored:
            continue
        tensor = node.input[0]
        if tensor not in parts:
            tensor = reshaped.get(tensor, tensor)
        if tensor in parts:
            weight = np.asarray(onnx.numpy_helper.to_array(stored[node.input[1]]), np.float32)
            turned = any(a.name == "transB" and a.i for a in node.attribute)
            parts[tensor].append(weight.T if turned else weight)
    return {tensor: np.concatenate(found, axis=1) for tensor, found in parts.items() if found}
