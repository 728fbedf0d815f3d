"""Collect the statistics of a float ONNX graph with ONNX Runtime."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import onnx
import onnxruntime
import torch

from trt_int8.calibrate.arrays import Batch
from trt_int8.calibrate.collector import Collector, NumberedBatches, Statistics, padding_mask
from trt_int8.calibrate.input_sizes import InputSizes
from trt_int8.calibrate.statistics import Needs
from trt_int8.calibrate.token_axes import PROBES, shape_after
from trt_int8.errors import GraphError, first_line

# ONNX Runtime hands out all watched tensors of a run at once: this much memory for them.
_BYTES_AT_ONCE = 1 << 26


class OnnxTensors:
    """Named tensors of a float ONNX graph."""

    def __init__(self, model: onnx.ModelProto, tensors: tuple[str, ...]) -> None:
        """Keep the graph; a session is made when it is run, in whichever process that is.

        Args:
            model: float graph.
            tensors: names of float tensors in it.
        """
        self._model, self._tensors = model, tensors

    def collect(
        self, batches: NumberedBatches, needs: Needs, advance: Callable[[], None]
    ) -> Statistics:
        """Run the graph over the batches.

        Args:
            batches: (number in the data set, arrays by input name); padding is left out.
            needs: which statistics.
            advance: called after each batch.

        Raises:
            GraphError: ONNX Runtime cannot run the graph on these inputs.
            RangeError: a tensor holds NaN or infinity.
        """
        with _named_errors():
            run = _Run(_session_with_outputs(self._model, self._tensors), self._tensors)
        sizes = InputSizes(self._model)
        collector = Collector(needs, None if sizes.can_probe else sizes.axes)
        for number, size in enumerate(PROBES) if batches and sizes.can_probe else ():
            # A graph that cannot take such short inputs has tensors of unknown axes.
            with contextlib.suppress(GraphError):
                for name, value in run(sizes.probe(batches[0][1], size)):
                    collector.probe(name, value, number)
        for number, batch in batches:
            for part in self._parts(collector, sizes, batch):
                sizes.begin(part)
                collector.begin(number, padding_mask(part))
                for name, value in run(part):
                    collector.observe(name, value)
            advance()
        return collector.statistics

    def _parts(self, collector: Collector, sizes: InputSizes, batch: Batch) -> Iterator[Batch]:
        """The batch in parts whose watched tensors fit into the memory set aside for them."""
        rows, tokens = sizes.of(batch)
        if sizes.batch is not None:
            yield batch  # the model takes this size only
            return
        known = [shapes for name in self._tensors if (shapes := collector.shapes_of(name))]
        row_bytes = 4 * sum(shape_after(shapes, (1, tokens)) for shapes in known)
        size = max(1, math.floor(_BYTES_AT_ONCE / row_bytes)) if row_bytes else rows
        if not sizes.can_probe:
            size = 1  # how much it takes is not known
        for start in range(0, rows, size):
            yield {name: array[start : start + size] for name, array in batch.items()}


@dataclass(frozen=True)
class _Run:
    session: onnxruntime.InferenceSession
    tensors: tuple[str, ...]

    def __call__(self, batch: Batch) -> Iterator[tuple[str, torch.Tensor]]:
        with _named_errors():
            values = self.session.run(list(self.tensors), batch)
        values.reverse()  # each is let go of when it has been looked at
        for name in self.tensors:
            yield name, torch.from_numpy(values.pop())


@contextlib.contextmanager
def _named_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # ONNX Runtime's errors share no narrower base
        raise GraphError(
            f"ONNX Runtime cannot run the model ({first_line(error)})",
            wanted="a model that runs on these calibration inputs",
            todo="check the ONNX file, and its tokenizer or the arrays",
        ) from error


def _session_with_outputs(
    model: onnx.ModelProto, tensors: tuple[str, ...]
) -> onnxruntime.InferenceSession:
    observed = onnx.ModelProto()
    observed.CopyFrom(model)
    present = {output.name for output in observed.graph.output}
    observed.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(name) for name in tensors if name not in present
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Named, so that every machine of a cluster adds in the same order as one process does.
    options.intra_op_num_threads = torch.get_num_threads()
    return onnxruntime.InferenceSession(
        observed.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
