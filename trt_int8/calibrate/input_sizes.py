"""Which sizes of input a graph takes, and inputs of such sizes to find its axes with."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

from trt_int8.calibrate.arrays import Batch
from trt_int8.calibrate.token_axes import PROBES, Shape, TokenAxes
from trt_int8.model.inputs import fixed_batch, graph_inputs, token_axes

_HEAD_AXES = 4


class InputSizes:
    """What the axes of a graph's inputs count.

    Attributes:
        batch: the only batch size it takes; None if any.
        can_probe: it takes any batch and, if it has a mask of its tokens, any number of tokens;
            then the axes of its tensors are found by running it on two sizes.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        """Look at the inputs; at the weights only where sizes are fixed."""
        inputs = graph_inputs(model)
        self.batch = fixed_batch(inputs)
        self._tokens = token_axes(inputs)
        self._masked = next((given.name for given in inputs if given.masks_tokens), None)
        self.can_probe = self.batch is None and (self._masked is None or bool(self._tokens))
        self._masks = frozenset(given.name for given in inputs if given.masks_tokens)
        self._other = frozenset() if self.can_probe else _other_sizes(model)
        self._now = (1, 0)

    def of(self, batch: Batch) -> tuple[int, int]:
        """Samples and tokens of a batch; as many tokens as in a probe if it has none."""
        name, axis = next(iter(self._tokens.items()), (self._masked, 1))
        rows = len(next(iter(batch.values())))
        return rows, PROBES[0][1] if name not in batch else batch[name].shape[axis]

    def begin(self, batch: Batch) -> None:
        """The next tensors asked about are of this batch."""
        rows, tokens = self.of(batch)
        self._now = (rows, tokens if self._masked is not None else 0)

    def axes(self, shape: Shape) -> TokenAxes:
        """What the axes of a tensor of the current batch count, told by their sizes."""
        rows, tokens = self._now
        return TokenAxes.by_sizes(shape, rows, tokens, self._other)

    def probe(self, batch: Batch, size: tuple[int, int]) -> Batch:
        """One real sample, repeated, its tokens cut or repeated; nothing is masked.

        All samples are the same: that tells whether an axis that holds them holds them outermost.

        Args:
            batch: samples.
            size: batch and sequence of the probe.
        """
        rows, tokens = size
        found: Batch = {}
        for name, array in batch.items():
            one = array[:1]
            if name in self._tokens:
                axis = self._tokens[name]
                one = np.take(one, np.arange(tokens) % one.shape[axis], axis)
            one = np.ones_like(one) if name in self._masks else one
            found[name] = np.repeat(one, rows, axis=0)
        return found


def _other_sizes(model: onnx.ModelProto) -> frozenset[int]:
    """Sizes of axes that count neither samples nor tokens: of weights, heads and head sizes."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    sizes: set[int] = set()
    for node in model.graph.node:
        if len(node.input) < 2 or node.input[1] not in constants:
            continue
        tensor = constants[node.input[1]]
        if node.op_type in ("MatMul", "Gemm"):
            sizes |= set(tensor.dims)
        elif node.op_type == "Reshape" and list(tensor.dims) == [_HEAD_AXES]:
            _, second, third, last = numpy_helper.to_array(tensor).tolist()
            # [B, S, N, D]: D, if it is as large as S, else cannot be told from it, nor N. Scores
            # [B, N, S, S] have both their last axes alike.
            sizes |= {last} if last != third else set()
            sizes |= {second} if second == third else set()
    return frozenset(sizes)
