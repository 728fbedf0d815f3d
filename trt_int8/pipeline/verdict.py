"""Does the INT8 engine meet the policy? If not, the FP16 twin is recommended."""

from __future__ import annotations

from collections.abc import Iterable

from trt_int8.spec.accuracy import AccuracyReport
from trt_int8.spec.coverage import EngineCoverage
from trt_int8.spec.manifest import Policy, Verdict

_NAMED = 6


def judge(policy: Policy, coverage: Iterable[EngineCoverage], accuracy: AccuracyReport) -> Verdict:
    """Compare coverage of every INT8 engine and accuracy with the policy."""
    failures = [
        failure
        for engine in coverage
        if engine.precision == "int8"
        for failure in _coverage_failures(policy, engine)
    ]
    cosine = accuracy.of("int8", "fp16").cosine_mean
    if not cosine >= policy.min_cosine:
        failures.append(
            f"mean cosine of {accuracy.primary_output} against FP16 is {cosine:.6f},"
            f" wanted >= {policy.min_cosine:g} (--min-cosine)"
        )
    return Verdict(recommended="fp16" if failures else "int8", failures=tuple(failures))


def _coverage_failures(policy: Policy, engine: EngineCoverage) -> list[str]:
    if engine.fraction >= policy.min_coverage:
        return []
    missing = [node for node in engine.counted if node.runs != "int8"]
    names = ", ".join(node.node for node in missing[:_NAMED])
    more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    target = "this card" if engine.sm is None else f"SM{engine.sm}"
    return [
        f"{engine.int8_count} of {len(engine.counted)} matmuls run INT8 on {target},"
        f" wanted {policy.min_coverage:.0%} (--min-coverage); not INT8: {names}{more}"
        f" ({missing[0].reason})"
    ]
