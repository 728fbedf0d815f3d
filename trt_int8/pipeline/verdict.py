"""Does the INT8 engine meet the policy? If not, the FP16 twin is recommended."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from trt_int8.spec.accuracy import AccuracyReport
from trt_int8.spec.build import Precision
from trt_int8.spec.coverage import EngineCoverage, NodeCoverage
from trt_int8.spec.manifest import Policy, Verdict

_NAMED = 6
_CAUSES = (
    "usual causes: a largest seq above 512 (SM75 with head dim 64: 384), a head dim other than"
    " 16, 32 or 64, a single head, Q/DQ on the scores in front of the mask; change --shapes, or set"
    " attention = false in the recipe"
)


def judge(
    policy: Policy,
    coverage: Iterable[EngineCoverage],
    accuracy: AccuracyReport,
    notes: tuple[str, ...] = (),
) -> Verdict:
    """Compare coverage of every INT8 engine and accuracy with the policy.

    Args:
        policy: what was asked for.
        coverage: of every engine.
        accuracy: on held-out data.
        notes: what the plan left out of INT8; handed on as warnings.
    """
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
        warnings=(*notes, *_unfused(coverage), *_doubtful_kernels(coverage)),
    )


def _unfused(coverage: tuple[EngineCoverage, ...]) -> Iterator[str]:
    """INT8 attention split into several kernels can lose to the twin's one FP16 kernel."""
    fused = {(e.sm, name): count for e in coverage for name, count in _fused(e, "fp16")}
    for engine in coverage:
        for name, count in _fused(engine, "int8"):
            in_fp16 = fused.get((engine.sm, name), 0)
            if count < in_fp16:
                yield (
                    f"{_target(engine)}{name and f', profile {name}'}: {count} of"
                    f" {engine.attentions} attentions are one kernel in INT8, {in_fp16} in FP16;"
                    f" {_CAUSES}"
                )


def _fused(engine: EngineCoverage, precision: Precision) -> list[tuple[str, int]]:
    """Attentions that are one kernel, per profile; under no name if there is one profile."""
    if engine.precision != precision:
        return []
    if not engine.profiles:
        return [("", engine.attentions_fused)]
    return [(each.profile, each.attentions_fused) for each in engine.profiles]


def _doubtful_kernels(coverage: tuple[EngineCoverage, ...]) -> Iterator[str]:
    """INT8 kernels that run, but at a hidden cost or risk."""
    for engine in coverage:
        int8 = [node for node in engine.nodes if node.runs == "int8"]
        loose = [node for node in int8 if node.constant_weight is False]
        # The BMMs of attention have one scale per tensor, which their kernel applies to the
        # accumulator before it writes (`alpha` in the plan); a Linear with one scale per channel
        # writes the accumulator as it is.
        linear = [n for n in int8 if n.role != "attention" and not n.fused_attention]
        half = [node for node in linear if node.output == "half"]
        if loose:
            yield (
                f"{_target(engine)}: {len(loose)} weights are no constants of the engine (they are"
                f" quantized again at every inference): {_names(loose)}"
            )
        if half:
            yield (
                f"{_target(engine)}: {len(half)} INT8 matmuls write float16, which the raw"
                f" accumulator may overflow: {_names(half)}"
            )


def _names(nodes: list[NodeCoverage]) -> str:
    more = f" and {len(nodes) - _NAMED} more" if len(nodes) > _NAMED else ""
    return ", ".join(node.node for node in nodes[:_NAMED]) + more


def _target(engine: EngineCoverage) -> str:
    return "this card" if engine.sm is None else f"SM{engine.sm}"


def _coverage_failures(policy: Policy, engine: EngineCoverage) -> list[str]:
    if policy.min_coverage > 0 and not engine.expected:
        return [f"no matmul runs INT8 on {_target(engine)}: all are left in float on purpose"]
    if engine.fraction >= policy.min_coverage:
        return []
    missing = [node for node in engine.expected if node.runs != "int8"]
    meant = len(engine.expected)
    left = len(engine.counted) - meant
    return [
        f"{meant - len(missing)} of {meant} matmuls run INT8 on {_target(engine)}"
        + (f" ({left} more are left in float on purpose)" if left else "")
        + f", wanted {policy.min_coverage:.0%} (--min-coverage); not INT8: {_names(missing)}"
        f" ({missing[0].reason})"
    ]
