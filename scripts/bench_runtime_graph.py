"""What OpenVINO executes: operators of the compiled graph and their kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any


def executed(compiled: Any) -> list[dict[str, Any]]:
    """Operators by type, kernel and precision, most frequent first.

    Args:
        compiled: OpenVINO's compiled model. With dynamic axes it must have run: kernels are chosen
            by the first call.
    """
    found = Counter(_kernel(op.get_rt_info()) for op in compiled.get_runtime_model().get_ops())
    return [
        {"layer": layer, "kernel": kernel, "precision": precision, "count": count}
        for (layer, kernel, precision), count in found.most_common()
        if layer not in ("Input", "Output", "Const", "Constant")
    ]


def _kernel(info: Mapping[str, Any]) -> tuple[str, str, str]:
    return (
        _text(info, "layerType"),
        _text(info, "primitiveType"),
        _text(info, "runtimePrecision"),
    )


def _text(info: Mapping[str, Any], key: str) -> str:
    try:
        value = info[key]
    except (KeyError, RuntimeError):
        return ""
    return str(getattr(value, "value", value))
