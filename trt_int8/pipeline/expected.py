"""Which matmuls are to run INT8: those that the recipe means and no rule leaves in float."""

from __future__ import annotations

from collections.abc import Iterable

from trt_int8.model.onnx_matmuls import find_matmuls
from trt_int8.pipeline.data import PreparedModel
from trt_int8.spec.coverage import EngineCoverage, NodeCoverage
from trt_int8.spec.recipe import Recipe


def mark_left(
    coverage: Iterable[EngineCoverage], prepared: PreparedModel, recipe: Recipe
) -> tuple[EngineCoverage, ...]:
    """Mark the matmuls that are left in float on purpose; a policy does not count them.

    A matmul without Q/DQ is left on purpose if the recipe does not have its kind, or a placement
    note names it. Any other is one that the placement missed, and stays counted. Where the model
    brought its Q/DQ, they alone say what is meant. A matmul with Q/DQ on one operand is meant to
    run INT8, and does not.

    Args:
        coverage: of every engine.
        prepared: the model; its placement notes.
        recipe: what was asked for.
    """
    noted = frozenset(note.node for note in prepared.placement)
    half = {site.node for site in find_matmuls(prepared.int8) if site.half_int8}

    def left(node: NodeCoverage) -> bool:
        if node.wanted_int8 or node.node in half:
            return False
        if not prepared.by_recipe or not noted.isdisjoint(_names_of(node.node)):
            return True
        return not recipe.attention if node.role == "attention" else recipe.linear is not True

    return tuple(
        engine.model_copy(
            update={
                "nodes": tuple(n.model_copy(update={"left_float": left(n)}) for n in engine.nodes)
            }
        )
        for engine in coverage
    )


def _names_of(node: str) -> tuple[str, str]:
    """A node's own name, and that of the PyTorch module it was exported from.

    The tracing exporter names a node `/encoder/layer.0/attention/self/MatMul`.
    """
    module, _, _ = node.rpartition("/")
    return node, module.strip("/").replace("/", ".")
