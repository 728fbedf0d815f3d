"""Builds layers with one version of TensorRT's plugin front end, from a test."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.support.tensorrt_bindings import plugin_paths, run_or_skip

_CODE = """
import json
from tests.kernels.front_end.child import run
result = run(json.loads({cases!r}), {mutation!r})
"""


@dataclass(frozen=True)
class Case:
    """One plugin layer and the sizes it runs with.

    Attributes:
        plugin_id: such as `trt_int8::int8_attention`.
        kinds: members of trt.DataType, of the inputs.
        shapes: of the inputs; a name stands for a size that varies between runs.
        attributes: by name.
        sizes: a number for every name, one mapping per run.
    """

    plugin_id: str
    kinds: tuple[str, ...]
    shapes: tuple[tuple[int | str, ...], ...]
    attributes: dict[str, int | float]
    sizes: tuple[dict[str, int], ...] = field(default=({},))


def build(version: str, cases: list[Case], stubs: Path, mutation: str = "") -> list[dict[str, Any]]:
    """What TensorRT would hold for each case; skips the test if this version is not installed.

    Args:
        version: of the bindings.
        cases: the layers.
        stubs: folder with the stand-ins for TensorRT's libraries.
        mutation: a planted bug of `mutations.py`.

    Returns:
        Per case `tactics`, `output_kinds`, `output_shapes` (per sizes), `kernels` (per tactic:
        `name`, `ptx`, `launches` per sizes) and `jit` (launches per tactic and sizes), or `error`.
    """
    code = _CODE.format(cases=json.dumps([asdict(case) for case in cases]), mutation=mutation)
    result: list[dict[str, Any]] = run_or_skip(version, code, stubs, plugin_paths(version))
    return result
