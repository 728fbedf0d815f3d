"""The graphs in the text of a TensorRT-RTX plan: their tensors and operator lines."""

from __future__ import annotations

import mmap
import re
from dataclasses import dataclass, replace
from pathlib import Path

from trt_int8.engine.evidence import UNKNOWN_PROFILE, EngineTensor, data_type, profiles_named

_HEADER, _DESCRIPTORS, _MAIN, _END = b"header {\n", b"\ndescriptors {\n", b"\nmain {\n", b"\n}"
# The graph inside a fused kernel is for any card; an outer one names its card.
_INNER = b"accelerators={*}"

_TENSOR = re.compile(
    r'tensor=\{ (?P<text>.*?) name="(?P<name>[^"]+)"(?P<rest>.*) type=(?P<type>\w+)'
)
_PAYLOAD = re.compile(r"\bconst_payload_size=(\d+)")
_PLACE = re.compile(r"\boffset=(\d+) .*?\bregion=(\S+)")
_DIMS = re.compile(r"\bdims=\{ ([^}]*)\}")


@dataclass(frozen=True)
class PlanTensor:
    """A tensor of a graph.

    Attributes:
        dtype: short data type.
        dims: its sizes; None where one is not known before run time.
        payload_bytes: what the plan stores of it; None for what is computed.
        place: where the payload is, so that one that is named twice counts once.
    """

    dtype: str
    dims: tuple[int, ...] | None
    payload_bytes: int | None
    place: tuple[str, str]


@dataclass(frozen=True)
class PlanBlock:
    """A graph: `tensors` by name, and `operators`, one line of text each.

    Attributes:
        inner: it is the graph inside a fused kernel.
        profile: optimization profile that it is for; `UNKNOWN_PROFILE` if it names several.
    """

    tensors: dict[str, PlanTensor]
    operators: tuple[str, ...]
    inner: bool
    profile: int

    def typed(self, names: list[str]) -> tuple[EngineTensor, ...]:
        """Tensors by name, with their data type; `unknown` for one that is not described."""
        known = self.tensors
        return tuple(
            EngineTensor(name, known[name].dtype if name in known else "unknown") for name in names
        )

    def is_stored(self, name: str) -> bool:
        """The plan holds the values of this tensor."""
        tensor = self.tensors.get(name)
        return tensor is not None and tensor.payload_bytes is not None


def read_blocks(path: Path) -> list[PlanBlock]:
    """All graphs of a plan file, in its order; empty if it has no readable one."""
    with (
        path.open("rb") as stream,
        mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        return _graphs(data)


def _graphs(data: mmap.mmap) -> list[PlanBlock]:
    graphs = []
    start = data.find(_HEADER)
    while start >= 0:
        head_end, following = data.find(_END, start), data.find(_HEADER, start + len(_HEADER))
        # Weights may hold any bytes: only blocks that follow one another are a graph.
        if head_end >= 0 and not start < following < head_end:
            tensors, after = _block(data, head_end + len(_END), _DESCRIPTORS)
            operators, _ = _block(data, after, _MAIN)
            if operators:
                inner = _INNER in data[start:head_end]
                graphs.append(PlanBlock(_tensors(tensors), operators, inner, _profile(operators)))
        start = following
    return graphs


def _profile(operators: tuple[str, ...]) -> int:
    """The profile that a graph is for; those of the first one do not say it."""
    said = set().union(*(profiles_named(line) for line in operators))
    return UNKNOWN_PROFILE if len(said) > 1 else next(iter(said), 0)


def _block(data: mmap.mmap, start: int, opening: bytes) -> tuple[tuple[str, ...], int]:
    """Lines of the block that opens at `start`, and where it ends; nothing if none opens there."""
    first = start + len(opening)
    if start < 0 or data[start:first] != opening:
        return (), -1
    end = data.find(_END, first)
    if end < 0:
        return (), -1
    return tuple(data[first:end].decode("latin-1").split("\n")), end + len(_END)


def _tensors(lines: tuple[str, ...]) -> dict[str, PlanTensor]:
    found: dict[str, PlanTensor] = {}
    for line in lines:
        match = _TENSOR.search(line)
        if match is None:
            continue
        payload, dims = _PAYLOAD.search(match["text"]), _DIMS.search(match["text"])
        sizes = dims[1].split() if dims else []
        static = bool(sizes) and all(size.isdigit() for size in sizes)
        place = _PLACE.search(match["rest"])
        tensor = PlanTensor(
            dtype=data_type(match["type"]),
            dims=tuple(map(int, sizes)) if static else None,
            payload_bytes=int(payload[1]) if payload else None,
            place=(place[2], place[1]) if place else ("", match["name"]),
        )
        old = found.get(match["name"])
        if old is not None and old.dtype != tensor.dtype:
            tensor = replace(tensor, dtype="unknown")
        found[match["name"]] = tensor
    return found
