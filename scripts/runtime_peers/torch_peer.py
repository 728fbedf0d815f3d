"""PyTorch on the CPU: torch.compile, torchao's INT8, export quantization, dynamic quantization."""

from __future__ import annotations

import contextlib
import copy
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from scripts.runtime_peers.context import MAX_TOKENS, Context, Prepared
from trt_int8.calibrate.texts import TokenArrays


def prepare_compiled(context: Context, *, bf16: bool) -> Prepared:
    """torch.compile of the float32 model; with `bf16` under autocast."""
    module = copy.deepcopy(context.model.wrapper)
    return _prepared(context, _compile(module), {"bf16_autocast": bf16}, bf16=bf16)


def prepare_torchao(context: Context) -> Prepared:
    """torch.compile of torchao's INT8 linears: weights and activations, scales per token."""
    torchao = importlib.import_module("torchao.quantization")
    module = copy.deepcopy(context.model.wrapper)
    config = torchao.Int8DynamicActivationInt8WeightConfig()
    torchao.quantize_(module, config)
    return _prepared(context, _compile(module), {"torchao": type(config).__name__}, bf16=False)


def prepare_exported(context: Context, *, bf16: bool) -> Prepared:
    """PT2E static quantization with torchao's X86InductorQuantizer, then torch.compile."""
    pt2e = importlib.import_module("torchao.quantization.pt2e.quantize_pt2e")
    x86 = importlib.import_module("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
    moves = importlib.import_module("torchao.quantization.pt2e")
    names = context.model.input_names
    whole = context.padded_calibration(8, MAX_TOKENS)
    example = tuple(torch.from_numpy(whole[0][name]) for name in names)
    dynamic = tuple({0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO} for _ in names)
    with torch.no_grad():
        exported = torch.export.export(
            copy.deepcopy(context.model.wrapper), example, dynamic_shapes=(dynamic,)
        ).module()
        quantizer = x86.X86InductorQuantizer()
        quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
        observed = pt2e.prepare_pt2e(exported, quantizer)
        for batch in whole:
            observed(*(torch.from_numpy(batch[name]) for name in names))
        converted = pt2e.convert_pt2e(observed)
    moves.move_exported_model_to_eval(converted)
    settings = {"quantizer": "X86InductorQuantizer, static", "bf16_autocast": bf16}
    return _prepared(context, _compile(converted), settings, bf16=bf16)


def prepare_dynamic(context: Context) -> Prepared:
    """`torch.ao.quantization.quantize_dynamic` of the linears, run without compiling."""
    quantization = importlib.import_module("torch.ao.quantization")
    module = quantization.quantize_dynamic(
        copy.deepcopy(context.model.wrapper), {torch.nn.Linear}, dtype=torch.qint8
    )
    engine = torch.backends.quantized.engine
    return _prepared(context, module, {"quantize_dynamic": f"qint8, {engine}"}, bf16=False)


def _compile(module: Any) -> Callable[..., Any]:
    # Freezing packs the weights once; PyTorch's CPU quantization guide asks for it. As an option of
    # torch.compile it misses the passes that lower Q/DQ, so it is set for the process.
    inductor: Any = importlib.import_module("torch._inductor.config")
    inductor.freezing = True
    # All peers compile the same function for several shapes: the default limit of 8 is for all of
    # them together, and what comes later would run uncompiled.
    dynamo: Any = importlib.import_module("torch._dynamo.config")
    dynamo.recompile_limit = dynamo.accumulated_recompile_limit = 1000
    compiled: Callable[..., Any] = torch.compile(module, dynamic=False)
    return compiled


def _prepared(
    context: Context, call: Callable[..., Any], settings: dict[str, Any], *, bf16: bool
) -> Prepared:
    torch.set_num_threads(context.threads)
    names = context.model.input_names

    def run(feeds: TokenArrays) -> NDArray[np.float32]:
        arrays = [torch.from_numpy(feeds[name]) for name in names]
        lower = torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext()
        with torch.no_grad(), lower:
            found = call(*arrays)
        array: NDArray[np.float32] = found[0].float().numpy()
        return array

    return Prepared(run, {"torch_threads": context.threads, **settings})
