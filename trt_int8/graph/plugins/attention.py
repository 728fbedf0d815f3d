"""Attentions with Q/DQ that one plugin node can compute."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from trt_int8.annotate.guard import AttentionSize
from trt_int8.graph.names import TensorNames
from trt_int8.graph.plugins.masks import Mask, MaskWriter, read_mask
from trt_int8.graph.plugins.operands import (
    HEADS_FIRST,
    KEY_TURNED,
    LayoutWriter,
    OperandPath,
    check_order,
    passed_on,
    read_operand,
)
from trt_int8.graph.plugins.outline import PluginSite
from trt_int8.graph.plugins.results import Result, ResultWriter, read_result
from trt_int8.graph.plugins.walk import (
    NoPluginError,
    Shapes,
    behind_casts,
    is_used_once,
    maker,
    quantizer_before,
)
from trt_int8.model.onnx_matmuls import AttentionSite, find_attentions
from trt_int8.plugins.attention import AttentionOptions, AttentionScalars
from trt_int8.plugins.signatures import signature_of

_LAYOUT_RANK = 4
_SCALES = ("q_scale", "k_scale", "v_scale", "output_scale", "softmax_scale")


@dataclass(frozen=True)
class _Reading:
    """An attention that has the plugin's form, before the graph is touched."""

    query: OperandPath
    key: OperandPath
    value: OperandPath
    masks: tuple[Mask, ...]
    softmax_scale: float
    result: Result

    @property
    def is_causal(self) -> bool:
        """Whether the plugin hides later keys by itself."""
        return len(self.masks) == 1 and self.masks[0].is_causal

    @property
    def scales(self) -> tuple[float, float, float, float, float]:
        """Of Q, K, V and the output (1 where it is float16), and that of the softmax."""
        of_pairs = (self.query.scale, self.key.scale, self.value.scale)
        return (*of_pairs, self.result.scale or 1.0, self.softmax_scale)


class AttentionFinder:
    """Finds the attentions of one graph, and rewrites each to what the plugin computes."""

    def __init__(self, graph: ir.Graph, names: TensorNames, shapes: Shapes) -> None:
        """Nothing is changed yet.

        Args:
            graph: with known element types.
            names: of the graph.
            shapes: of the graph as it was given.
        """
        self._graph, self._shapes = graph, shapes
        self._layouts = LayoutWriter(graph, names)
        self._masks = MaskWriter(graph, names)
        self._results = ResultWriter(self._layouts)

    def candidates(self) -> Iterator[AttentionSite]:
        """All attentions, in graph order; those without any Q/DQ are not meant to be INT8."""
        for found in find_attentions(self._graph):
            values = (*found.scores.inputs[:2], found.context.inputs[1])
            if any(self._is_quantized(value) for value in values):
                yield found

    def size_of(self, found: AttentionSite) -> AttentionSize:
        """Its head sizes, and number of heads."""
        fixed = self._shapes.fixed
        return AttentionSize(
            key_dim=fixed(found.scores.inputs[0], -1),
            value_dim=fixed(found.context.inputs[1], -1),
            heads=fixed(found.scores.outputs[0], -3),
        )

    def rewrite(self, found: AttentionSite) -> PluginSite:
        """Bring an attention to the plugin's inputs and outputs; the values stay the same.

        Raises:
            NoPluginError: it is another computation; the graph is as it was.
        """
        reading = self._read(found)
        query, key, value = (
            self._layouts.codes(path, last)
            for path, last in (
                (reading.query, HEADS_FIRST),
                (reading.key, KEY_TURNED),
                (reading.value, HEADS_FIRST),
            )
        )
        scores, context = found.scores, found.context
        for node, index, path, codes, last in (
            (scores, 0, reading.query, query, HEADS_FIRST),
            (scores, 1, reading.key, key, KEY_TURNED),
            (context, 1, reading.value, value, HEADS_FIRST),
        ):
            operand = self._layouts.operand(path, codes, last, node)
            node.replace_input_with(index, operand)
        inputs, own = [query, key, value], list[ir.Value]()
        if len(reading.masks) == 1:
            inputs.append(self._masks.additive(reading.masks[0], key))
        elif reading.masks:
            own = [mask.value for mask in reading.masks]
            inputs.append(self._masks.sum(reading.masks, key))
        output = self._results.write(reading.result)
        return PluginSite(
            signature_of("attention", ("mask",) if reading.masks else ()),
            str(found.softmax.name),
            tuple(inputs),
            (output,),
            {
                **dict(zip(_SCALES, reading.scales, strict=True)),
                "causal": int(reading.is_causal),
                "half_output": int(reading.result.scale is None),
            },
            tuple(own),
        )

    def _read(self, found: AttentionSite) -> _Reading:
        self._check_sizes(found)
        query, key, value = (
            read_operand(operand, name, self._shapes)
            for operand, name in (
                (found.scores.inputs[0], "Q"),
                (found.scores.inputs[1], "K"),
                (found.context.inputs[1], "V"),
            )
        )
        check_order(query, HEADS_FIRST, "Q")
        check_order(key, KEY_TURNED, "K")
        check_order(value, HEADS_FIRST, "V")
        if value.factor != 1.0:
            raise NoPluginError("V is multiplied by a number behind its pair")
        masks, scale = self._read_scores(found)
        self._read_weights(found)
        result = read_result(found.context, self._shapes)
        reading = _Reading(query, key, value, masks, scale * query.factor * key.factor, result)
        # They refuse what the kernel cannot do.
        AttentionOptions(result.sizes[1], half_output=result.scale is None)
        AttentionScalars(*reading.scales)
        return reading

    def _check_sizes(self, found: AttentionSite) -> None:
        values = (*found.scores.inputs[:2], found.context.inputs[1], found.context.outputs[0])
        if any(self._shapes.rank(value) not in (None, _LAYOUT_RANK) for value in values):
            raise NoPluginError("its operands are not [B, N, S, D]")
        trials = [self._shapes.trials(value) for value in values]
        for number_of_trial in (0, 1):
            shapes = [trial[number_of_trial] for trial in trials if trial is not None]
            if len(shapes) != len(values):
                raise NoPluginError("its sizes are not known")
            query, key, value, result = shapes
            b, n, _, d = query
            if key[:3] != (b, n, d) or value != (b, n, key[3], d) or result != query:
                raise NoPluginError("Q, K and V differ in batch, heads or head size")

    def _read_scores(self, found: AttentionSite) -> tuple[tuple[Mask, ...], float]:
        """What stands between the first matmul and the softmax: numbers, then masks."""
        softmax, scores = found.softmax, found.scores.outputs[0]
        axis = softmax.attributes["axis"].as_int() if "axis" in softmax.attributes else -1
        if axis not in (-1, _LAYOUT_RANK - 1):
            raise NoPluginError("its softmax is not over the keys")
        masks: list[Mask] = []
        factor = 1.0
        value = softmax.inputs[0]
        while value is not None and value is not scores and is_used_once(value):
            node = value.producer()
            if node is None:
                break
            place, multiplied = passed_on(node)
            if place is not None:
                factor, value = factor * multiplied, node.inputs[place]
                continue
            if node.op_type not in ("Add", "Where"):
                raise NoPluginError(f"a {node.op_type} is between its scores and its softmax")
            if factor != 1.0:
                raise NoPluginError("its scores are scaled behind a mask")
            mask, value = read_mask(node, scores, self._shapes)
            masks.insert(0, mask)
        if value is not scores or not is_used_once(scores):
            raise NoPluginError("something else reads its scores")
        return tuple(masks), factor

    def _read_weights(self, found: AttentionSite) -> None:
        """One pair, Casts aside, between the softmax and the second matmul."""
        pair = quantizer_before(found.context.inputs[0])
        if pair is None or behind_casts(pair[0].inputs[0]) is not found.softmax.outputs[0]:
            raise NoPluginError("its softmax output is not quantized as the plugin does it")
        value = found.context.inputs[0]
        while value is not None and value is not found.softmax.outputs[0]:
            node = value.producer()
            if node is None or not is_used_once(value):
                raise NoPluginError("something else reads its softmax output")
            value = node.inputs[0]
        if not is_used_once(found.softmax.outputs[0]):
            raise NoPluginError("something else reads its softmax output")

    def _is_quantized(self, value: ir.Value | None) -> bool:
        """Tell whether a DQ stands in front, layout and numbers aside."""
        try:
            read_operand(value, "", self._shapes)
        except NoPluginError:
            return maker(behind_casts(value), "DequantizeLinear") is not None
        return True
