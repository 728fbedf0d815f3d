"""Read a TensorRT-RTX plan: its header and the graph text inside it.

Both are undocumented, so they only confirm what the builder logged (`layers_block`), and only
for plan versions whose form was checked.
"""

from __future__ import annotations

import mmap
import re
import struct
from bisect import bisect
from dataclasses import dataclass, replace
from pathlib import Path

from trt_int8.engine.evidence import UNKNOWN_PROFILE, onnx_nodes, profiles_named
from trt_int8.errors import CoverageError

KNOWN_VERSIONS = ((1, 7, 1, 116),)
_CAPABILITY_BITS = {1: 75, 2: 80, 4: 86, 8: 89, 16: 120, 32: 121}

# Starts with a literal, so that the search runs fast over hundreds of megabytes of weights; also
# matches `sub_tensor={`.
_TENSOR = re.compile(rb'tensor=\{ [^\n]{0,2000}? name="([^"\n]+)"[^\n]{0,2000}? type=(\w+) \}')
_OP = re.compile(rb"(fully_connected|runtime_fusion|function)=\{ name=([^\n]+)")
# Each profile has a graph of its own: its tensors, then its operators behind this line. Tensor
# names are unique inside one graph only.
_GRAPH = re.compile(rb"\nmain \{\n")
_QUOTED = re.compile(r'"([^"]+)"')
# Names may hold braces, so only what is in quotes belongs to a list.
_LISTS = re.compile(r'\b(input|input_args)=\{((?:\s*"[^"]*")*)\s*\}')
_LAYERS = re.compile(r'layers="([^"]*)"')
_FQN = re.compile(r"\bfqn=(\S+)")
_TRAITS = re.compile(
    rb"Kernel_traits_v2<\s*fmha::(\w+),\s*fmha::(\w+),[\s\S]{0,60000}?__global__[^{]{0,300}?"
    rb"(_gemm_mha\w+)\s*\("
)


@dataclass(frozen=True)
class PlanOperator:
    """A GEMM or fused attention in the plan's graph text.

    Attributes:
        kind: `gemm` or `attention`.
        operands: data types of its first 2 inputs (GEMM) or of all inputs (attention).
        onnx_nodes: ONNX nodes it implements.
        int8_bmms: for an attention: both BMMs use INT8 tensor-core instructions.
        profile: optimization profile it runs in; -1 if the text contradicts itself.
    """

    kind: str
    operands: tuple[str, ...]
    onnx_nodes: tuple[str, ...]
    int8_bmms: bool
    profile: int = 0


@dataclass(frozen=True)
class PlanText:
    """What a plan says of itself: `version` (4 numbers), `sms` and its matrix operators."""

    version: tuple[int, int, int, int]
    sms: tuple[int, ...]
    operators: tuple[PlanOperator, ...]


def read_plan(path: Path) -> PlanText:
    """Read header and graph text of a plan file.

    Raises:
        CoverageError: it is not a TensorRT-RTX plan, is cut short, or of an unchecked version.
    """
    with path.open("rb") as stream:
        header = stream.read(64)
        version, sms = read_header(header, path)
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return PlanText(version, sms, _operators(data))


def read_header(header: bytes, path: Path) -> tuple[tuple[int, int, int, int], tuple[int, ...]]:
    """Version and compute capabilities of a plan, from its first 64 bytes.

    Raises:
        CoverageError: it is no plan, or of a version whose form was never checked.
    """
    todo = "build the engine again"
    if len(header) < 64 or header[:4] != b"vtrt" or header[28:32] != b"vtrt":
        raise CoverageError(f"{path.name!r} is not a plan", wanted="a TensorRT-RTX plan", todo=todo)
    (size,) = struct.unpack_from("<Q", header, 16)
    if path.stat().st_size < size:
        raise CoverageError(
            f"plan {path.name!r} has {path.stat().st_size} bytes", wanted=f"{size}", todo=todo
        )
    major, minor, patch, build = struct.unpack_from("4B", header, 24)
    version = (major, minor, patch, build)
    if version not in KNOWN_VERSIONS:
        known = ", ".join(".".join(map(str, v)) for v in KNOWN_VERSIONS)
        raise CoverageError(
            f"plan version {'.'.join(map(str, version))} was never checked",
            wanted=f"version {known}",
            todo=f"run: pip install tensorrt-rtx-cu13=={known}",
        )
    (mask,) = struct.unpack_from("<I", header, 32)
    return version, tuple(sm for bit, sm in _CAPABILITY_BITS.items() if mask & bit)


def _operators(data: mmap.mmap) -> tuple[PlanOperator, ...]:
    graphs = [match.start() for match in _GRAPH.finditer(data)]
    types: list[dict[str, set[str]]] = [{} for _ in range(len(graphs) + 1)]
    for match in _TENSOR.finditer(data):
        known = types[bisect(graphs, match.start())]
        known.setdefault(match[1].decode("latin-1"), set()).add(match[2].decode())
    int8_kernels = {
        match[3].decode()
        for match in _TRAITS.finditer(data)
        if match[1].endswith(b"imma_int8_int32_traits")
        and match[2].endswith(b"imma_int8_int32_traits")
    }
    found: dict[int, list[tuple[str, PlanOperator]]] = {}
    for match in _OP.finditer(data):
        kind, text = match[1].decode(), match[2].decode("latin-1")
        attention = kind == "function" and text.startswith("_gemm_mha")
        if kind == "function" and not attention:
            continue
        graph = max(bisect(graphs, match.start()) - 1, 0)
        operator = _operator(text, types[graph], int8_kernels, attention=attention)
        found.setdefault(graph, []).append((text, operator))
    return tuple(operator for graph in found.values() for operator in _in_profile(graph))


def _in_profile(graph: list[tuple[str, PlanOperator]]) -> list[PlanOperator]:
    """The operators of one graph, with the profile that it runs in."""
    said = set().union(*(profiles_named(text) for text, _ in graph))
    profile = UNKNOWN_PROFILE if len(said) > 1 else next(iter(said), 0)
    return [replace(operator, profile=profile) for _, operator in graph]


def _operator(
    text: str, types: dict[str, set[str]], int8_kernels: set[str], *, attention: bool
) -> PlanOperator:
    lists = {name: _QUOTED.findall(body) for name, body in _LISTS.findall(text)}
    inputs = lists.get("input_args") or lists.get("input") or []
    operands = tuple(_type_of(name, types) for name in inputs[: None if attention else 2])
    layers = _LAYERS.search(text)
    fqn = _FQN.search(text)
    return PlanOperator(
        kind="attention" if attention else "gemm",
        operands=operands,
        onnx_nodes=onnx_nodes(layers[1]) if layers else (),
        int8_bmms=fqn is not None and fqn[1] in int8_kernels,
    )


def _type_of(name: str, types: dict[str, set[str]]) -> str:
    found = types.get(name, set())
    return next(iter(found)) if len(found) == 1 else "unknown"
