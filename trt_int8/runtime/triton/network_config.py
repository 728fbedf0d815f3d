"""`config.pbtxt` of the network itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from trt_int8.runtime.tensors import TensorInfo
from trt_int8.runtime.triton.network import Network, Sample, data_type
from trt_int8.runtime.triton.options import TritonOptions
from trt_int8.runtime.triton.pbtxt import Message, Name, Value, entries

LABELS_NAME: Final = "labels.txt"
MODEL_ONNX: Final = "model.onnx"
# Requests that wait, in full batches per instance; one more is refused at once, so that a flood
# does not become a queue that nobody waits for any more.
_QUEUED_BATCHES = 64
# Inside the server's container: the repository may be mounted read-only.
_ENGINE_CACHE = "/var/cache/trt_engine"


def network_config(
    network: Network,
    options: TritonOptions,
    *,
    plans: Mapping[int | None, str],
    labelled: str | None = None,
) -> Message:
    """Everything Triton has to know of the network.

    Args:
        network: inputs, outputs, batch and lengths.
        options: what the user asked for.
        plans: names of TensorRT engines by SM, None for one built on the serving card; empty for
            the other backends.
        labelled: the output whose last axis `LABELS_NAME` names.
    """
    config: dict[str, Value] = {"name": network.name}
    if network.backend == "tensorrt":
        config["platform"] = "tensorrt_plan"
    else:
        config["backend"] = network.backend
    config["max_batch_size"] = network.max_batch
    config["input"] = [tensor_config(network, info) for info in network.signature.inputs]
    config["output"] = [
        tensor_config(network, info, labels=info.name == labelled)
        for info in network.signature.outputs
    ]
    config["version_policy"] = {"specific": {"versions": [1]}}
    config |= _files(network, plans)
    config["instance_group"] = [_instances(network, options)]
    if network.max_batch:
        config["dynamic_batching"] = dynamic_batching(network, options)
    optimization = _optimization(network, options)
    if optimization:
        config["optimization"] = optimization
    if network.backend == "openvino":
        # It has no parameter against bfloat16, in which OpenVINO computes on CPUs with AMX.
        config["parameters"] = entries({"PERFORMANCE_HINT": {"string_value": "LATENCY"}})
    config["model_warmup"] = [_warmup(network, sample) for sample in network.warm_samples()]
    return config


def tensor_config(network: Network, info: TensorInfo, *, labels: bool = False) -> Message:
    """One input or output; one number per sample is `[1]` outside and `[]` for the model."""
    dims = network.dims(info)
    config: dict[str, Value] = {
        "name": info.name,
        "data_type": Name(data_type(info)),
        "dims": list(dims) or [1],
    }
    if not dims:
        config["reshape"] = {}
    if labels:
        config["label_filename"] = LABELS_NAME
    return config


def dynamic_batching(network: Network, options: TritonOptions) -> Message:
    """How requests of equal shapes are joined.

    Preferred sizes are for TensorRT alone, whose kernels are chosen for a profile's best batch;
    for others Triton's guide advises against them.
    """
    best = {profile[0].opt[0] for profile in network.signature.profiles}
    preferred = sorted(size for size in best if 1 < size < network.max_batch)
    config: dict[str, Value] = {}
    if network.backend == "tensorrt" and preferred:
        config["preferred_batch_size"] = [*preferred, network.max_batch]
    config["max_queue_delay_microseconds"] = options.queue_delay_us
    config["default_queue_policy"] = {
        "max_queue_size": min(_QUEUED_BATCHES * network.max_batch * options.instances, 2**32 - 1),
    }
    return config


def _files(network: Network, plans: Mapping[int | None, str]) -> dict[str, Value]:
    by_card = {f"{sm // 10}.{sm % 10}": name for sm, name in plans.items() if sm is not None}
    if by_card:
        return {"cc_model_filenames": entries(by_card)}
    default = plans.get(None)
    if default is None and network.backend in ("onnxruntime", "openvino"):
        default = MODEL_ONNX
    return {"default_model_filename": default} if default is not None else {}


def _instances(network: Network, options: TritonOptions) -> Message:
    group: dict[str, Value] = {"count": options.instances}
    group["kind"] = Name("KIND_GPU" if options.kind == "cuda" else "KIND_CPU")
    if options.gpus:
        group["gpus"] = list(options.gpus)
    count = len(network.signature.profiles)
    if network.backend == "tensorrt" and count > 1:
        group["profile"] = [str(index) for index in range(count)]
    return group


def _optimization(network: Network, options: TritonOptions) -> Message:
    if network.backend == "tensorrt":
        specs: list[Value] = [_graph(sample, network) for sample in network.graph_samples()]
        return {"cuda": {"graphs": True, "graph_spec": specs}} if specs else {}
    if network.backend == "onnxruntime" and options.kind == "cuda":
        # No precision_mode: without one the provider obeys the types that the graph states.
        parameters = {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": _ENGINE_CACHE,
            **_profile_shapes(network),
        }
        accelerator: Message = {"name": "tensorrt", "parameters": entries(parameters)}
        return {"execution_accelerators": {"gpu_execution_accelerator": [accelerator]}}
    return {}


def _graph(sample: Sample, network: Network) -> Message:
    shapes = {name: {"dim": list(dims)} for name, dims in sample.dims.items()}
    return {"batch_size": sample.batch if network.max_batch else 0, "input": entries(shapes)}


def _profile_shapes(network: Network) -> dict[str, str]:
    """Ranges for ONNX Runtime's TensorRT provider: `a:1x16,b:1x16`; nothing without profiles."""
    profiles = network.signature.profiles
    if not profiles:
        return {}
    texts = {}
    for end in ("min", "opt", "max"):
        shapes = []
        for given in network.signature.inputs:
            sizes = given.smallest if end == "min" else given.largest
            if end == "opt":
                sizes = next(one.opt for one in profiles[0] if one.name == given.name)
            shapes.append(f"{given.name}:{'x'.join(map(str, sizes))}")
        texts[f"trt_profile_{end}_shapes"] = ",".join(shapes)
    return texts


def _warmup(network: Network, sample: Sample) -> Message:
    types = {info.name: data_type(info) for info in network.signature.inputs}
    sizes = "_".join("x".join(map(str, dims)) for dims in dict.fromkeys(sample.dims.values()))
    inputs: Message = {
        name: {"data_type": Name(types[name]), "dims": list(dims), "zero_data": True}
        for name, dims in sample.dims.items()
    }
    return {
        "name": f"batch_{sample.batch}_of_{sizes}",
        "batch_size": sample.batch,
        "inputs": entries(inputs),
    }
