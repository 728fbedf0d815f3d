"""A check: what it looks for and the function that finds it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from trt_int8.graph.lint.view import GraphView
from trt_int8.spec.lint import CheckInfo, Finding, Severity


@dataclass(frozen=True)
class Hit:
    """A place where a check strikes.

    Attributes:
        node: name of the node, tensor or input.
        found: what is there.
        severity: None for that of the check.
        fixable: None for what the check says.
    """

    node: str
    found: str
    severity: Severity | None = None
    fixable: bool | None = None


@dataclass(frozen=True)
class Check:
    """What to look for in a sound graph, and how."""

    info: CheckInfo
    find: Callable[[GraphView], Iterable[Hit]]


def finding(info: CheckInfo, hit: Hit) -> Finding:
    """A hit together with what its check says about it."""
    return Finding(
        check=info.id,
        severity=hit.severity or info.severity,
        node=hit.node,
        found=hit.found,
        reason=info.reason,
        mend=info.mend,
        fixable=info.fixable if hit.fixable is None else hit.fixable,
    )
