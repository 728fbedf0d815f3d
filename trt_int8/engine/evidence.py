"""One engine layer, whatever listing it was read from."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

LayerKind = Literal["gemm", "attention", "other"]

# The names NVIDIA's listings use for one type: short form (Myelin kernels), long form (others).
_TYPE_WORDS = {
    "int8": "int8",
    "half": "half",
    "fp16": "half",
    "float": "float",
    "fp32": "float",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "fp8": "fp8",
    "int64": "int64",
    "int32": "int32",
    "bool": "bool",
    "uint8": "uint8",
}
_ONNX_LAYER = re.compile(r"\[ONNX Layer: (.*?)\](?=\s*(?:\[ONNX Layer: |[\x1e\x1f]|$))")
# Myelin names a fused kernel after its steps, in order: `__myl_CastMulCastFc` dequantizes, then
# multiplies.
_CAST_BEFORE_GEMM = re.compile(r"^__myl_[A-Za-z]*?(Cast|Mul)[A-Za-z]*?Fc")
_OPAQUE = "{ForeignNode["
# TensorRT names the copies of a network for the second profile and later "… [profile 1]"; the
# kernels of one copy share the number of its Myelin graph, `_myl1_`, but not all say the profile.
_PROFILE = re.compile(r" \[profile (\d+)\]")
# TensorRT-RTX names a node of a local function "node | call (function)"; plugin nodes have such.
_CALL = re.compile(r" \| .+ \(\w+__\d+\)$")
_GRAPH = re.compile(r"_myl(\d+)(?:_\d+)?$")
UNKNOWN_PROFILE = -1
_SCALE_OPERAND = re.compile(r"_(alpha|beta)(_myl\d+)?$")


@dataclass(frozen=True)
class EngineTensor:
    """A tensor of an engine layer: its name and data type (`int8`, `half`, `float`, …)."""

    name: str
    dtype: str


@dataclass(frozen=True)
class EngineLayer:
    """A kernel of an engine.

    Attributes:
        name: as in the listing.
        kind: `gemm` (also fused with what follows), `attention` (one fused kernel) or `other`.
        inputs: tensors computed at run time.
        constants: tensors stored in the engine.
        outputs: what it writes.
        onnx_nodes: ONNX nodes it implements.
        profile: optimization profile it runs in; `UNKNOWN_PROFILE` if the listing contradicts
            itself.
    """

    name: str
    kind: LayerKind
    inputs: tuple[EngineTensor, ...]
    constants: tuple[EngineTensor, ...]
    outputs: tuple[EngineTensor, ...]
    onnx_nodes: tuple[str, ...]
    profile: int = 0

    @property
    def operands(self) -> tuple[EngineTensor, ...]:
        """What a GEMM reads: its first two tensors that are not its scale factors."""
        tensors = [t for t in self.inputs + self.constants if not _SCALE_OPERAND.search(t.name)]
        return tuple(tensors[:2])

    @property
    def casts_first(self) -> bool:
        """It changes the type of what it reads before it multiplies."""
        return _CAST_BEFORE_GEMM.match(self.name) is not None

    @property
    def is_opaque(self) -> bool:
        """It stands for a whole subgraph whose kernels are not listed (TensorRT 8.6)."""
        return self.name.startswith(_OPAQUE)


def layer_kind(layer_type: str, name: str) -> LayerKind:
    """Classify a layer by the type and name NVIDIA gives it."""
    if name.startswith("_gemm_mha"):
        return "attention"
    if layer_type in ("gemm", "MatrixMultiply", "CaskGemmMatrixMultiply"):
        return "gemm"
    if layer_type in ("runtime_fusion", "fusion") and "Fc" in name:
        return "gemm"
    return "other"


def data_type(text: str) -> str:
    """Map a data type, or the format sentence it is part of, to one short word."""
    for word in re.findall(r"[A-Za-z]+\d*", text):
        found = _TYPE_WORDS.get(word.lower())
        if found:
            return found
    return "unknown"


def onnx_nodes(metadata: str) -> tuple[str, ...]:
    """ONNX node names in a layer's metadata, in order, each once."""
    names = (_PROFILE.sub("", name) for name in _ONNX_LAYER.findall(metadata))
    return tuple(dict.fromkeys(_CALL.sub("", name) for name in names))


def with_profiles(layers: Iterable[EngineLayer]) -> tuple[EngineLayer, ...]:
    """Find out which profile each layer of a listing runs in, by the names in it.

    A kernel that names no profile runs in that of the other kernels of its Myelin graph.
    """
    listed = tuple(layers)
    said: dict[str, set[int]] = {}
    for layer in listed:
        tensors = (*layer.inputs, *layer.constants, *layer.outputs)
        for text in (layer.name, *(tensor.name for tensor in tensors)):
            said.setdefault(_graph_of(layer), set()).update(profiles_named(text))
    return tuple(replace(layer, profile=_only(said[_graph_of(layer)])) for layer in listed)


def profiles_named(text: str) -> set[int]:
    """Profiles that a name mentions."""
    return {int(number) for number in _PROFILE.findall(text)}


def _graph_of(layer: EngineLayer) -> str:
    match = _GRAPH.search(layer.name)
    return match[1] if match else layer.name


def _only(profiles: set[int]) -> int:
    if len(profiles) > 1:
        return UNKNOWN_PROFILE
    return next(iter(profiles), 0)
