"""Apply the mends that are safe, and say what was done.

First pairs that only round are taken out (a lone activation pair of a matmul, the pairs of an
attention that cannot fuse); then the graph is brought to the normal form, which folds weights,
shares and drops repeated pairs, turns uint8 of zero point 128 to int8, inlines functions and names
nodes. A float16 graph goes through float32 and back, for Q and DQ need float32 scales.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import EncodeError
from onnx.external_data_helper import load_external_data_for_model
from onnx_ir.passes import common as passes

from trt_int8.errors import BundleError, ModelError, TrtInt8Error, first_line
from trt_int8.files import write_whole
from trt_int8.graph.half import to_half
from trt_int8.graph.lint.attention import kind_of_gap, missing_sites
from trt_int8.graph.lint.integrity import nodes_of
from trt_int8.graph.lint.run import lint_file, lint_model, quiet, read_proto
from trt_int8.graph.lint.structure import MOST_BYTES
from trt_int8.graph.lint.view import (
    MATMULS,
    PASS,
    STANDARD_DOMAINS,
    activation_source,
    dequantizer_behind,
    is_kind,
    maker,
    scale_of,
    source,
)
from trt_int8.graph.normalize import normalize, tidy
from trt_int8.model.onnx_matmuls import AttentionSite, find_attentions
from trt_int8.spec.lint import FixReport, Goal, LintReport

_SPLIT_KINDS = (
    *("attention-bmm1-only", "attention-bmm2-only"),
    *("attention-operand", "attention-softmax"),
)
# What is mended without the normal form, which brings a float16 graph to float32 and back.
_NAMES = frozenset({"unnamed-node", "repeated-name", "repeated-qdq-name"})
_PAIRS = frozenset({"one-operand", *_SPLIT_KINDS})
_TIDY = frozenset({"function-called-twice", "function-overload", "pair-per-consumer"})
_EVERYTHING = frozenset({*_NAMES, *_PAIRS, *_TIDY, "turned-weight"})


@dataclass(frozen=True)
class Mended:
    """A new model, with what was done and what could not be."""

    model: onnx.ModelProto
    steps: tuple[str, ...]
    skipped: tuple[str, ...]


def fix_file(path: Path, out: Path, goal: Goal, *, force: bool = False) -> FixReport:
    """Mend what can be mended safely and write the result.

    Args:
        path: the model; it is not changed, unless `out` names it too.
        out: file to write, whole or not at all; weights go into it, not beside it.
        goal: targets and shapes for the findings in the new file.
        force: replace `out` if it is there, even if it is `path`.

    Raises:
        ModelError: the file cannot be read, or its graph is too broken to be mended.
        BundleError: `out` exists and `force` is not given, or is over 2 GB.
    """
    if out.exists() and not force:
        same = path.exists() and out.samefile(path)
        raise BundleError(
            f"{str(out)!r} {'is the input' if same else 'exists'}",
            wanted="a new file",
            todo="pass another --fix file, or --force to replace it",
        )
    model = read_proto(path)
    before = lint_model(model, path, goal)
    if before.stopped:
        raise ModelError(
            f"{path.name!r} cannot be mended: {before.stopped}",
            wanted="a graph that can be read",
            todo="run trt-int8 lint without --fix, and mend what it names first",
        )
    load_external_data_for_model(model, str(path.parent))
    with quiet():
        mended = mend(model, frozenset(f.check for f in before.findings if f.fixable))
    data = _bytes_of(mended.model, out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, data)
    after = lint_file(out, goal)
    return FixReport(
        path=str(out),
        steps=(*mended.steps, *_cleared(before, after)),
        skipped=mended.skipped,
        after=after,
    )


def _bytes_of(model: onnx.ModelProto, out: Path) -> bytes:
    try:
        return bytes(model.SerializeToString())
    except (EncodeError, ValueError) as error:
        raise BundleError(
            f"{out.name!r} would have {model.ByteSize() / 2**30:.1f} GiB ({first_line(error)})",
            wanted=f"at most {MOST_BYTES} bytes, protobuf's limit",
            todo="mend the model before its weights are merged into it",
        ) from error


def _cleared(before: LintReport, after: LintReport) -> tuple[str, ...]:
    """Findings that are gone, by check: what the mends came to."""
    left = Counter(finding.check for finding in after.findings)
    found = Counter(finding.check for finding in before.findings)
    return tuple(
        f"{check}: {count} before, {left[check]} after"
        for check, count in found.items()
        if left[check] < count
    )


def mend(model: onnx.ModelProto, wanted: frozenset[str] | None = None) -> Mended:
    """Apply safe mends; those that this graph does not allow are listed, not raised.

    Args:
        model: with its external data loaded.
        wanted: ids of the checks to mend, so that nothing else is touched; None for all.
    """
    steps: list[str] = []
    skipped: list[str] = []
    wanted = _EVERYTHING if wanted is None else wanted
    current, left = model, wanted - _NAMES - _PAIRS
    try:
        if wanted - _NAMES - _TIDY:
            current = _without_useless_pairs(model, steps)
        if left - _TIDY:
            current = _normal_form(current, steps)
        elif left:
            current = _tidied(current, steps)
    except TrtInt8Error as error:
        skipped.append(f"the normal form, for {error}")
    except Exception as error:  # noqa: BLE001 - passes of onnx_ir raise many kinds on odd graphs
        skipped.append(f"the normal form, for {type(error).__name__}: {first_line(error)}")
    return Mended(_named(current, steps), tuple(steps), tuple(skipped))


def _normal_form(model: onnx.ModelProto, steps: list[str]) -> onnx.ModelProto:
    half = _computes_in_half(model)
    normal = normalize(model)
    normal = to_half(normal) if half else normal
    steps.append("brought to the normal form of Q/DQ (int8 weights [K, N], shared pairs, names)")
    if half:
        text = "by way of float32: Q, DQ, norms and sums stay there, so that less is rounded"
        steps.append(f"{text} than before; matmuls are float16 again")
    return normal


def _tidied(model: onnx.ModelProto, steps: list[str]) -> onnx.ModelProto:
    loaded = ir.from_proto(model)
    tidy(loaded)
    steps.append("inlined functions, shared equal nodes, dropped unused ones")
    return ir.to_proto(loaded)


def _computes_in_half(model: onnx.ModelProto) -> bool:
    """Tell whether the matmuls are float16 (by what a Cast or an initializer gives)."""
    inferred = ir.from_proto(model)
    passes.ShapeInferencePass(check_type=False, strict_mode=False)(inferred)
    outputs = (n.outputs[0].dtype for n in inferred.graph if n.op_type in MATMULS)
    return any(dtype == ir.DataType.FLOAT16 for dtype in outputs)


def _named(model: onnx.ModelProto, steps: list[str]) -> onnx.ModelProto:
    """Give every node that has none, or that of an earlier node, a name of its own."""
    named = onnx.ModelProto()
    named.CopyFrom(model)
    nodes = list(nodes_of(named))
    taken = {node.name for node in nodes}
    seen: set[str] = set()
    changed = 0
    for node in nodes:
        if not node.name or node.name in seen:
            base = node.name or f"{node.op_type}_{''.join(node.output[:1])}"
            numbered = (f"{base}_{number}" for number in itertools.count(1))
            node.name = base if base not in taken else next(n for n in numbered if n not in taken)
            changed += 1
        seen.add(node.name)
        taken.add(node.name)
    if changed:
        steps.append(f"named {changed} nodes")
    return named


def _without_useless_pairs(model: onnx.ModelProto, steps: list[str]) -> onnx.ModelProto:
    loaded = ir.from_proto(model)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(loaded)
    attentions = find_attentions(loaded.graph)
    own = {id(node) for a in attentions for node in (a.scores, a.context)}
    for attention in attentions:
        missing = missing_sites(attention)
        if kind_of_gap(missing) in _SPLIT_KINDS:
            _open_attention(attention)
            text = f"took Q/DQ off the matmuls of the attention around {attention.softmax.name!r}"
            steps.append(f"{text} (no Q/DQ on {', '.join(missing)}): they ran rounded, not fused")
    for node in loaded.graph:
        if node.op_type in MATMULS and node.domain in STANDARD_DOMAINS and id(node) not in own:
            found = [dequantizer_behind(source(node, index)) for index in (0, 1)]
            if (found[0] is None) != (found[1] is None) and _open(node, 0 if found[0] else 1):
                what = "the other operand has none, so it only rounded"
                steps.append(f"took Q/DQ off one operand of {node.name!r} ({what})")
    if not steps:
        return model
    passes.RemoveUnusedNodesPass()(loaded)
    return ir.to_proto(loaded)


def _open_attention(attention: AttentionSite) -> None:
    for node in (attention.scores, attention.context):
        for index in (0, 1):
            _open(node, index)


def _open(node: ir.Node, index: int) -> bool:
    """Let an operand bypass the activation pair in front of it; tells whether it did.

    Layout operators between pair and operand are kept: they are copied onto the float tensor.
    """
    between: list[ir.Node] = []
    value = source(node, index)
    maker_of = maker(value)
    while maker_of is not None and is_kind(maker_of, *PASS):
        between.append(maker_of)
        maker_of = maker(source(maker_of, 0))
    if maker_of is None or not is_kind(maker_of, "DequantizeLinear") or scale_of(maker_of) is None:
        return False
    start = activation_source(maker_of)
    if start is None:
        return False
    graph = node.graph
    for step in reversed(between):
        copy = ir.Node(
            step.domain, step.op_type, [start, *step.inputs[1:]], step.attributes.values()
        )
        copy.name = f"{step.name}_{node.name}_float"
        copy.outputs[0].name = f"{step.outputs[0].name}_{node.name}_{index}_float"
        if graph is None:
            return False
        graph.insert_before(node, copy)
        start = copy.outputs[0]
    node.replace_input_with(index, start)
    return True
