"""Read an ONNX file, whatever it is, and run every check on it."""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError
from onnx_ir.passes import common as passes

from trt_int8.errors import ModelError, first_line
from trt_int8.graph.lint import (
    attention,
    attention_size,
    codes,
    integrity,
    operators,
    pairs,
    placement,
    plugins,
    precision,
    scales,
    structure,
)
from trt_int8.graph.lint.check import Check, Hit, finding
from trt_int8.graph.lint.view import CalledFunction, FileFacts, GraphView
from trt_int8.graph.opset import opset_of
from trt_int8.spec.lint import SEVERITIES, CheckInfo, Finding, Goal, LintReport

UNJUDGED = CheckInfo(
    id="unjudged",
    severity="warning",
    what="a check that could not read this graph",
    reason="the graph is odd in a way the check does not know, so it proves nothing",
    mend="run onnx.checker on the file, and report it",
)
GRAPH_CHECKS: tuple[Check, ...] = (
    *codes.CHECKS,
    *scales.CHECKS,
    *placement.CHECKS,
    *pairs.CHECKS,
    *attention.CHECKS,
    *attention_size.CHECKS,
    *precision.CHECKS,
    *operators.CHECKS,
    *structure.CHECKS,
    *plugins.CHECKS,
)
ALL_CHECKS: tuple[CheckInfo, ...] = (
    *integrity.CHECKS,
    *(check.info for check in GRAPH_CHECKS),
    UNJUDGED,
)
_QDQ = ("QuantizeLinear", "DequantizeLinear")


def read_proto(path: Path) -> onnx.ModelProto:
    """Parse a file without its external data.

    Raises:
        ModelError: it is missing, empty, over 2 GB, or no ONNX model at all.
    """
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "no file"
        raise ModelError(f"{str(path)!r} is {kind}", wanted="an .onnx file", todo="check the path")
    size = path.stat().st_size
    if size > structure.MOST_BYTES:
        raise ModelError(
            f"{path.name!r} has {size / 2**30:.1f} GiB",
            wanted="at most 2 GiB, protobuf's limit",
            todo="save it with external data: onnx.save(..., save_as_external_data=True)",
        )
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except (DecodeError, RuntimeError, ValueError) as error:
        raise _no_onnx(path, f"{first_line(error)}, {size} bytes") from error
    # Protobuf reads many files that are something else as messages without known fields.
    if not model.HasField("graph") and not model.opset_import:
        raise _no_onnx(path, f"no graph in its {size} bytes")
    return model


def _no_onnx(path: Path, why: str) -> ModelError:
    return ModelError(
        f"{path.name!r} is no ONNX file, or a damaged one ({why})",
        wanted="an intact .onnx file",
        todo="export or copy it again",
    )


def lint_file(path: Path, goal: Goal) -> LintReport:
    """Run all checks on a file.

    Raises:
        ModelError: see `read_proto`. Anything else wrong with it is a finding.
    """
    return lint_model(read_proto(path), path, goal)


def lint_model(model: onnx.ModelProto, path: Path, goal: Goal) -> LintReport:
    """Run all checks on a parsed model.

    Args:
        model: external data not loaded.
        path: its file; external data are looked for in its folder.
        goal: targets and shapes.
    """
    findings = [finding(integrity.BROKEN_GRAPH, hit) for hit in integrity.broken(model)]
    stopped = "the graph is broken" if findings else ""
    lost = list(integrity.missing_data(model, path.parent))
    findings += [finding(integrity.MISSING_DATA, hit) for hit in lost]
    stopped = stopped or ("weights are missing" if lost else "")
    if not stopped:
        findings += [finding(integrity.INVALID_ONNX, hit) for hit in _refused(model, path)]
        try:
            view = _view(model, path, goal)
        except Exception as error:  # noqa: BLE001 - graph libraries raise many kinds on odd files
            stopped = f"the graph cannot be read ({first_line(error)})"
            findings.append(finding(integrity.BROKEN_GRAPH, Hit("", stopped)))
        else:
            findings += _judge(view)
    return LintReport(
        model=str(path),
        targets=goal.sms,
        shapes=str(goal.shapes),
        nodes=sum(1 for _ in integrity.nodes_of(model)),
        findings=tuple(sorted(findings, key=lambda f: SEVERITIES.index(f.severity))),
        stopped=stopped,
    )


def _refused(model: onnx.ModelProto, path: Path) -> Iterator[Hit]:
    """What onnx.checker says first; its own reading stops there."""
    beside = any(
        tensor.data_location == onnx.TensorProto.EXTERNAL
        for tensor in integrity.stored_tensors(model)
    )
    try:
        # From a path it looks for external data in the right folder.
        onnx.checker.check_model(str(path) if beside else model)
    except (onnx.checker.ValidationError, RuntimeError, ValueError, TypeError) as error:
        yield Hit("", first_line(error))


def _judge(view: GraphView) -> Iterator[Finding]:
    for check in GRAPH_CHECKS:
        try:
            hits = list(check.find(view))
        except Exception as error:  # noqa: BLE001 - a linter must not fall over what it looks at
            text = f"{check.info.id}: {type(error).__name__}: {first_line(error)}"
            yield finding(UNJUDGED, Hit("", text))
        else:
            yield from (finding(check.info, hit) for hit in hits)


def _view(model: onnx.ModelProto, path: Path, goal: Goal) -> GraphView:
    facts = _facts(model, path)
    # A copy without the weights' bytes would do, but the checks read constants.
    loaded = ir.from_proto(model)
    ir.external_data.set_base_dir(loaded.graph, path.parent)
    with quiet():
        if loaded.functions:
            passes.InlinePass()(loaded)
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(loaded)
        with contextlib.suppress(Exception):
            # Without shapes and types fewer findings are made, but none that are wrong.
            passes.ShapeInferencePass(check_type=False, strict_mode=False)(loaded)
    return GraphView(loaded, facts, goal)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep onnx_ir from logging what the checks report themselves."""
    logger = logging.getLogger("onnx_ir")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _facts(model: onnx.ModelProto, path: Path) -> FileFacts:
    # The parser puts the name of the call in front of those of a function's nodes.
    scopes = [("", graph.node) for graph in integrity.graphs_of(model)]
    scopes += [(f"{function.name}/", function.node) for function in model.functions]
    nodes = [
        (scope + node.name if node.name else "", node.op_type, "".join(node.output[:1]))
        for scope, listed in scopes
        for node in listed
        if node.op_type != "Constant"
    ]
    return FileFacts(
        opset=opset_of(model),
        total_bytes=model.ByteSize() + _external_bytes(model),
        functions=_functions(model),
        node_names=tuple(nodes),
    )


def _external_bytes(model: onnx.ModelProto) -> int:
    total = 0
    for tensor in integrity.stored_tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            lengths = [e.value for e in tensor.external_data if e.key == "length"]
            total += sum(int(length) for length in lengths if length.isdigit())
    return total


def _functions(model: onnx.ModelProto) -> tuple[CalledFunction, ...]:
    calls = Counter(node.op_type for node in integrity.nodes_of(model))
    inner = {f.name: [node.op_type for node in f.node] for f in model.functions}

    def has_qdq(name: str, seen: frozenset[str] = frozenset()) -> bool:
        kinds = inner.get(name, [])
        below = (k for k in kinds if k in inner and k not in seen)
        return any(k in _QDQ for k in kinds) or any(has_qdq(k, seen | {name}) for k in below)

    return tuple(
        CalledFunction(f"{f.domain}::{f.name}", f.overload, calls[f.name], has_qdq(f.name))
        for f in model.functions
    )
