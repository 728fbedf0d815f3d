"""What this CPU does at best: a chain of large matmuls in OpenVINO, and reading memory."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import onnx
import onnx.helper as make
import onnx.numpy_helper as convert
import openvino

from scripts.bench_runtime_timing import seconds_of
from scripts.runtime_peers.openvino_peer import compile_config

# 2048 x 2048 x 2048 eight times: long enough that the first and last layer do not count.
_SIZE, _LAYERS = 2048, 8
# Four times the last-level cache would take GBs on a server; what reads past L2 is told apart.
_SMALL_BYTES, _LARGE_BYTES = 24 << 20, 1 << 30


def matmul_calls(threads: int) -> dict[str, tuple[Callable[[], Any], int]]:
    """A call and its multiply-adds, for int8, bf16 and f32."""
    rng = np.random.default_rng(0)
    data = {"x": rng.standard_normal((_SIZE, _SIZE)).astype(np.float32)}
    found: dict[str, tuple[Callable[[], Any], int]] = {}
    for kind, precision in (("int8", "f32"), ("bf16", "bf16"), ("f32", "f32")):
        model = matmul_chain(_SIZE, _LAYERS, quantized=kind == "int8")
        compiled = openvino.Core().compile_model(
            openvino.Core().read_model(model.SerializeToString()),
            "CPU",
            compile_config(threads, precision),
        )
        call = partial(compiled.create_infer_request().infer, data, share_inputs=True)
        found[kind] = (call, _LAYERS * _SIZE**3)
    return found


def matmul_chain(size: int, layers: int, *, quantized: bool) -> onnx.ModelProto:
    """`layers` square matmuls one after the other; quantized ones with Q/DQ before each."""
    rng = np.random.default_rng(1)
    nodes, constants, last = [], [], "x"
    scales = {"act_scale": np.float32(0.05), "weight_scale": np.float32(0.01 / np.sqrt(size))}
    for name, value in {**scales, "zero": np.int8(0)}.items():
        constants.append(convert.from_array(np.asarray(value), name))
    for layer in range(layers):
        codes = rng.integers(-127, 128, (size, size)).astype(np.int8)
        weight = f"w{layer}"
        if quantized:
            constants.append(convert.from_array(codes, f"{weight}_codes"))
            dequantize = [f"{weight}_codes", "weight_scale", "zero"]
            nodes.append(make.make_node("DequantizeLinear", dequantize, [weight]))
            quantize = [last, "act_scale", "zero"]
            nodes.append(make.make_node("QuantizeLinear", quantize, [f"q{layer}"]))
            restore = [f"q{layer}", "act_scale", "zero"]
            nodes.append(make.make_node("DequantizeLinear", restore, [f"x{layer}"]))
            last = f"x{layer}"
        else:
            floats = codes.astype(np.float32) * scales["weight_scale"]
            constants.append(convert.from_array(floats, weight))
        nodes.append(make.make_node("MatMul", [last, weight], [f"y{layer}"]))
        last = f"y{layer}"
    shape = [size, size]
    graph = make.make_graph(
        nodes,
        "chain",
        [make.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [make.make_tensor_value_info(last, onnx.TensorProto.FLOAT, shape)],
        constants,
    )
    return make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=8)


def read_bandwidth(threads: int, *, repeats: int = 7) -> dict[str, float]:
    """Bytes per second read by `threads` threads: within the caches, and past most of them."""
    return {
        "cached": _best_read(_SMALL_BYTES, threads, repeats),
        "memory": _best_read(_LARGE_BYTES, threads, repeats),
    }


def _best_read(size: int, threads: int, repeats: int) -> float:
    parts = np.array_split(np.ones(size // 8, np.int64), threads)
    with ThreadPoolExecutor(threads) as pool:

        def read() -> None:
            # A maximum reads every value once and writes nothing; NumPy lets the lock go.
            list(pool.map(np.max, parts))

        return size / min(seconds_of(read) for _ in range(repeats))


def cpu_facts() -> dict[str, Any]:
    """Name, cores this process may use and the instruction sets that matter here (Linux)."""
    flags: set[str] = set()
    name = ""
    with open("/proc/cpuinfo", encoding="utf-8") as stream:  # noqa: PTH123
        for line in stream:
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() == "flags":
                flags = set(value.split())
    wanted = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
    return {
        "name": name,
        "cores": sorted(os.sched_getaffinity(0)),
        "flags": [flag for flag in wanted if flag in flags],
    }
