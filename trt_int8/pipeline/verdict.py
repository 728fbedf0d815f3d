"""Does the INT8 engine meet the policy? If not, the FP16 twin is recommended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from trt_int8.spec.accuracy import AccuracyReport
from trt_int8.spec.coverage import EngineCoverage
from trt_int8.spec.manifest import Policy, Verdict

_NAMED = 6
_CAUSES = (
    "usual causes: a largest seq above 512 (SM75 with head dim 64: 384), a head dim other than"
    " 16, 32 or 64, Q/DQ on the scores in front of the mask; change --shapes, or set"
    " attention = false in the recipe"
)


def judge(policy: Policy, coverage: Iterable[EngineCoverage], accuracy: AccuracyReport) -> Verdict:
    """Compare coverage of every INT8 engine and accuracy with the policy."""
    coverage = tuple(coverage)
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
    return Verdict(
        recommended="fp16" if failures else "int8",
        failures=tuple(failures),
        warnings=tuple(_unfused(coverage)),
    )


def _unfused(coverage: tuple[EngineCoverage, ...]) -> Iterator[str]:
    """INT8 attention split into several kernels can lose to the twin's one FP16 kernel."""
    fused = {e.sm: e.attentions_fused for e in coverage if e.precision == "fp16"}
    for engine in coverage:
        if engine.precision == "int8" and engine.attentions_fused < fused.get(engine.sm, 0):
            yield (
                f"{_target(engine)}: {engine.attentions_fused} of {engine.attentions} attentions"
                f" are one kernel in INT8, {fused[engine.sm]} in FP16; {_CAUSES}"
            )


def _target(engine: EngineCoverage) -> str:
    return "this card" if engine.sm is None else f"SM{engine.sm}"


def _coverage_failures(policy: Policy, engine: EngineCoverage) -> list[str]:
    if engine.fraction >= policy.min_coverage:
        return []
    missing = [node for node in engine.counted if node.runs != "int8"]
    names = ", ".join(node.node for node in missing[:_NAMED])
    more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    return [
        f"{engine.int8_count} of {len(engine.counted)} matmuls run INT8 on {_target(engine)},"
        f" wanted {policy.min_coverage:.0%} (--min-coverage); not INT8: {names}{more}"
        f" ({missing[0].reason})"
    ]
