"""Checks a bundle, chooses the device and starts what runs the model there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trt_int8 import optional
from trt_int8.engine.manifest_reader import load_manifest
from trt_int8.errors import RequestError
from trt_int8.runtime.backend import Backend
from trt_int8.runtime.checks import CheckedBundle, check_cpu, check_gpu
from trt_int8.runtime.cpu.graph import cpu_graph
from trt_int8.runtime.cpu.onnxruntime import OnnxRuntimeBackend
from trt_int8.runtime.cpu.openvino import OpenVinoBackend
from trt_int8.runtime.cpu.options import CpuOptions
from trt_int8.runtime.cpu.threads import default_threads
from trt_int8.runtime.device import Device, choose_device
from trt_int8.runtime.fixed import for_cpu, with_shapes
from trt_int8.runtime.gpu.backend import GpuOptions, open_engine
from trt_int8.runtime.gpu.cards import find_card
from trt_int8.runtime.options import SessionOptions, is_count
from trt_int8.runtime.tensors import Shape, Signature, read_signature
from trt_int8.spec.build import Precision


@dataclass(frozen=True)
class Asked:
    """What the caller of `Session.open` wants; see there."""

    device: str
    workers: int
    precision: Precision
    options: SessionOptions


@dataclass(frozen=True)
class Loaded:
    """A bundle that is ready to run.

    Attributes:
        checked: the bundle, checked for the device.
        device: where it runs.
        backend: what runs it.
        signature: what requests are checked against.
    """

    checked: CheckedBundle
    device: Device
    backend: Backend
    signature: Signature


def load_bundle(folder: Path, asked: Asked) -> Loaded:
    """Check a bundle, then load it. What it raises, `Session.open` says."""
    if not is_count(asked.workers):
        raise RequestError(f"workers is {asked.workers!r}", wanted="1 or more", todo="correct it")
    precision, options = asked.precision, asked.options
    device = choose_device(asked.device, load_manifest(folder), precision=precision)
    if device.kind == "cuda":
        checked = check_gpu(folder, find_card(device.index), precision)
    else:
        checked = check_cpu(folder, precision)
    model = checked.read_model()
    whole = read_signature(model, checked.manifest.profiles)
    if device.kind == "cuda":
        # The engine keeps its own profiles, whichever shapes the session uses of them.
        signature = with_shapes(whole, options.shapes)
        graphs = max(options.graphs, len(options.shapes))
        fixed = _fixed_shapes(signature) if options.shapes else ()
        gpu = GpuOptions(asked.workers, graphs, options.cuda_graphs, shapes=fixed)
        backend = open_engine(checked, whole, device.index, gpu)
    else:
        signature = with_shapes(for_cpu(whole), options.shapes)
        backend = _start_on_cpu(model, signature, asked.workers, options)
    return Loaded(checked, device, backend, signature)


def _start_on_cpu(
    model: bytes, signature: Signature, workers: int, options: SessionOptions
) -> Backend:
    threads = options.threads or max(default_threads(), workers)
    # An engine's profiles do not count here, so what there are were asked for.
    cpu = CpuOptions(threads, workers, _fixed_shapes(signature))
    graph = cpu_graph(model)
    with_openvino = options.runtime == "openvino" or (
        options.runtime == "auto" and optional.is_installed("openvino")
    )
    if not with_openvino:
        return OnnxRuntimeBackend(graph, cpu)
    return OpenVinoBackend(graph, tuple(one.name for one in signature.outputs), cpu)


def _fixed_shapes(signature: Signature) -> tuple[dict[str, Shape], ...]:
    """The profiles of a signature that has no others than fixed shapes."""
    return tuple({one.name: one.max for one in profile} for profile in signature.profiles)
