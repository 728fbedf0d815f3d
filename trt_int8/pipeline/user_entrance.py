"""Models that come annotated: a PyTorch model of the user's, or a checkpoint of his training."""

from __future__ import annotations

import inspect
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
import torch
from google.protobuf.message import EncodeError
from torch import Tensor, nn

from trt_int8.annotate.user_model import check_quantizers, fit_for_export
from trt_int8.errors import BundleError, GraphError, ModelError, first_line
from trt_int8.files import write_whole
from trt_int8.graph.export import OPSET
from trt_int8.graph.normalize import normalize
from trt_int8.pipeline.build import BuildOutcome, run_build
from trt_int8.pipeline.options import BuildOptions
from trt_int8.pipeline.progress import Reporter, SilentReporter

_HALF = (torch.float16, torch.bfloat16)
Example = Mapping[str, Tensor] | tuple[Tensor, ...]


@dataclass(frozen=True)
class AnnotatedExport:
    """What was exported.

    Attributes:
        path: the ONNX file, in normal form; `trt-int8 build --model PATH` takes it.
        inputs: its inputs, in call order.
        outputs: its outputs.
        quantizers: names of the quantizers that became Q/DQ.
        disabled: names of those that the user switched off: these tensors stay FP16.
    """

    path: Path
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    quantizers: tuple[str, ...]
    disabled: tuple[str, ...]


def export_annotated(model: nn.Module, example: Example, path: Path) -> AnnotatedExport:
    """Export a model annotated with pytorch-quantization to ONNX with Q/DQ, in normal form.

    The model is the user's own: made under `quant_modules.initialize()`, with QuantLinear or with
    TensorQuantizers wherever he put them, calibrated or trained. It is left as it was.

    Args:
        model: float32; its ranges are loaded.
        example: one batch, by argument name or in call order. Axis 0 of each tensor is the batch,
            axis 1 of a matrix of integers the sequence.
        path: the .onnx file to write; whole or not at all.

    Raises:
        ModelError: naming the quantizer that cannot become INT8, or PyTorch cannot trace the model.
        GraphError: the graph cannot be brought to the normal form, or is over 2 GB.
        BundleError: the file cannot be written.
    """
    inputs = _named(model, example)
    caller = _Caller(model, tuple(inputs))
    modes = [(module, module.training) for module in model.modules()]
    try:
        caller.eval()
        found = check_quantizers(model, lambda: _run(caller, inputs))
        with fit_for_export(model):
            graph = normalize(_trace(caller, inputs))
    finally:
        for module, training in modes:
            module.training = training
    _write(graph, path)
    outputs = tuple(value.name for value in graph.graph.output)
    used = tuple(value.name for value in graph.graph.input)
    return AnnotatedExport(path, used, outputs, found.active, found.disabled)


def build_annotated(
    model: nn.Module, example: Example, options: BuildOptions, reporter: Reporter | None = None
) -> BuildOutcome:
    """Export a model as `export_annotated` does and build its bundle.

    Args:
        model: as for `export_annotated`.
        example: as for `export_annotated`.
        options: of the build; `model` names the bundle, and `tokenizer` must be given for texts.
        reporter: told of progress.

    Raises:
        TrtInt8Error: of the step that failed; nothing half-written is left.
    """
    with tempfile.TemporaryDirectory() as folder:
        name = Path(options.model).name.removesuffix(".onnx") or type(model).__name__
        file = Path(folder) / f"{name}.onnx"
        export_annotated(model, example, file)
        changed = options.model_copy(update={"model": str(file)})
        return run_build(changed, reporter or SilentReporter())


class _Caller(nn.Module):
    """Calls a model by argument names and gives its float tensors as a plain tuple."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = model
        self._names = names

    def outputs(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Float tensors of the result, by name; `output`, `output_1`, … if they have none."""
        given = self.model(**dict(zip(self._names, inputs, strict=True)))
        if isinstance(given, Tensor):
            given = (given,)
        if isinstance(given, Mapping):
            named = {str(key): value for key, value in given.items()}
        else:
            named = {f"output_{i}" if i else "output": value for i, value in enumerate(given)}
        return {k: v for k, v in named.items() if isinstance(v, Tensor) and v.is_floating_point()}

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The values of `outputs`, as PyTorch's tracer wants them."""
        return tuple(self.outputs(*inputs).values())


def _named(model: nn.Module, example: Example) -> dict[str, Tensor]:
    if isinstance(example, Mapping):
        named = dict(example)
    else:
        names = list(inspect.signature(model.forward).parameters)
        named = dict(zip(names, example, strict=False))
    wrong = [name for name, value in named.items() if not isinstance(value, Tensor)]
    if wrong or not named:
        raise ModelError(
            f"the example batch has no tensor {wrong[0]!r}" if wrong else "the example is empty",
            wanted="one tensor per argument of the model",
            todo="pass a batch as the model reads it",
        )
    halves = [name for name, p in model.named_parameters() if p.dtype in _HALF]
    if halves:
        raise ModelError(
            f"the parameter {halves[0]!r} is in half precision",
            wanted="a float32 model (its FP16 twin is made by the build)",
            todo="call model.float(), and export without autocast",
        )
    return named


def _run(caller: _Caller, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    try:
        outputs = caller.outputs(*inputs.values())
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ModelError(
            f"{type(caller.model).__name__} does not run on the example ({first_line(error)})",
            wanted=f"a batch with {', '.join(inputs)} as the model reads it",
            todo="correct the example",
        ) from error
    if not outputs:
        raise ModelError(
            f"{type(caller.model).__name__} returns no float tensor",
            wanted="a tensor, or a tuple or mapping of tensors",
            todo="wrap it in a module that returns its result",
        )
    return outputs


def _trace(caller: _Caller, inputs: dict[str, Tensor]) -> onnx.ModelProto:
    axes = {name: _axes(value) for name, value in inputs.items()}
    try:
        with (
            warnings.catch_warnings(),
            torch.no_grad(),
            tempfile.TemporaryDirectory() as folder,
        ):
            warnings.simplefilter("ignore")
            names = tuple(caller.outputs(*inputs.values()))
            path = Path(folder) / "model.onnx"
            torch.onnx.export(
                caller,
                tuple(inputs.values()),
                str(path),
                opset_version=OPSET,
                dynamo=False,
                input_names=list(inputs),
                output_names=list(names),
                dynamic_axes=axes,
            )
            traced = onnx.load(str(path))
    except (RuntimeError, TypeError, ValueError, torch.onnx.errors.OnnxExporterError) as error:
        raise ModelError(
            f"PyTorch cannot export {type(caller.model).__name__} ({first_line(error)})",
            wanted="a model that torch.onnx can trace",
            todo="load it with attn_implementation='eager', or export it yourself",
        ) from error
    # The tracer records the sizes of this example, which are those of no other batch.
    for value in traced.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            dim.Clear()
    return traced


def _write(graph: onnx.ModelProto, path: Path) -> None:
    try:
        write_whole(path, graph.SerializeToString())
    except OSError as error:
        raise BundleError(
            f"{str(path)!r} cannot be written ({error.strerror})",
            wanted="a folder that exists and is writable",
            todo="create it, or choose another path",
        ) from error
    except (ValueError, EncodeError) as error:
        raise GraphError(
            f"{path.name!r} cannot be written as one file ({first_line(error)})",
            wanted="a model under 2 GB in float32 (the limit of an ONNX file)",
            todo="export the layers of the model in parts",
        ) from error


def _axes(value: Tensor) -> dict[int, str]:
    tokens = value.dim() == 2 and not value.is_floating_point()
    return {0: "batch", 1: "sequence"} if tokens else {0: "batch"}
