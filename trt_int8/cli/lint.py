"""`trt-int8 lint`: why TensorRT rejects a model, does not fuse it or does not run it in INT8."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from trt_int8.errors import ModelError
from trt_int8.spec.lint import SEVERITIES, Finding, FixReport, Goal, LintReport, Severity
from trt_int8.spec.shapes import DEFAULT_SHAPES, default_profile, parse_shapes
from trt_int8.spec.targets import parse_targets

_ERRORS_FOUND = 2
_SHOWN = 5
_COLOURS: dict[Severity, str] = {"error": "bold red", "warning": "yellow", "info": "cyan"}


def lint(  # noqa: PLR0913 - one parameter per option of the command line
    *,
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A float or Q/DQ .onnx file.")],
    target: Annotated[str, typer.Option(help="Cards or SMs it is to run on.")] = "t4,a100",
    shapes: Annotated[
        str | None, typer.Option(help=f"axis=min:opt:max,… (default: {DEFAULT_SHAPES})")
    ] = None,
    fix: Annotated[
        Path | None, typer.Option(metavar="OUT", help="Write a mended copy, and judge that.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Let --fix replace OUT, even the input.")
    ] = False,
    show_all: Annotated[bool, typer.Option("--all", help="List every node.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, nothing else.")] = False,
    _debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Find what TensorRT rejects, does not fuse or silently does not run in INT8.

    Exit code 0: no errors (there may be warnings), 1: the file cannot be read, 2: errors found.
    """
    profile = parse_shapes(shapes) if shapes is not None else default_profile()
    goal = Goal(sms=tuple(t.sm for t in parse_targets(target)), shapes=profile)
    if force and fix is None:
        raise ModelError("--force without --fix", wanted="--fix OUT", todo="add it")
    from trt_int8.graph.lint.fix import fix_file
    from trt_int8.graph.lint.run import lint_file

    fixed = fix_file(model, fix, goal, force=force) if fix is not None else None
    report = fixed.after if fixed is not None else lint_file(model, goal)
    if as_json:
        _write_json(report, fixed)
    else:
        console = Console(highlight=False)
        if fixed is not None:
            _print_fix(console, fixed)
        _print_report(console, report, shown=None if show_all else _SHOWN)
    if report.count("error"):
        raise typer.Exit(_ERRORS_FOUND)


def _write_json(report: LintReport, fixed: FixReport | None) -> None:
    body: dict[str, Any] = {"counts": {s: report.count(s) for s in SEVERITIES}}
    body |= json.loads(report.model_dump_json())
    if fixed is not None:
        body["fix"] = {"path": fixed.path, "steps": fixed.steps, "skipped": fixed.skipped}
    sys.stdout.write(json.dumps(body, indent=1) + "\n")


def _print_fix(console: Console, fixed: FixReport) -> None:
    console.print(Text(f"wrote {fixed.path}"), soft_wrap=True)
    for step in fixed.steps or ("nothing to mend",):
        console.print(Text(f"  done: {step}"), soft_wrap=True)
    for text in fixed.skipped:
        console.print(Text(f"  not done: {text}", style="yellow"), soft_wrap=True)
    console.print()


def _print_report(console: Console, report: LintReport, shown: int | None) -> None:
    for severity in SEVERITIES:
        found = [finding for finding in report.findings if finding.severity == severity]
        if found:
            _print_group(console, severity, found, shown)
    targets = ", ".join(f"SM{sm}" for sm in report.targets)
    counts = ", ".join(_count(report.count(s), s) for s in SEVERITIES)
    where = f"{Path(report.model).name}: {report.nodes} nodes, for {targets}, {report.shapes}"
    console.print(Text(where, style="dim"), soft_wrap=True)
    if report.stopped:
        text = f"stopped: {report.stopped}; the other checks did not run"
        console.print(Text(text, style="yellow"), soft_wrap=True)
    fixable = sum(finding.fixable for finding in report.findings)
    hint = f" (--fix can mend {fixable})" if fixable else ""
    style = "red" if report.count("error") else "yellow" if report.count("warning") else "green"
    console.print(Text(f"{counts}{hint}", style=style))


def _count(number: int, severity: Severity) -> str:
    return f"{number} {severity}{'' if number == 1 else 's'}"


def _print_group(
    console: Console, severity: Severity, found: list[Finding], shown: int | None
) -> None:
    console.print(Text(_count(len(found), severity), style=_COLOURS[severity]))
    by_check: dict[str, list[Finding]] = {}
    for finding in found:
        by_check.setdefault(finding.check, []).append(finding)
    for check, findings in by_check.items():
        first = findings[0]
        head = Text("  ")
        head.append(check, style="bold")
        head.append(f"  {len(findings)}x" + ("  --fix" if first.fixable else ""), style="dim")
        console.print(head)
        console.print(Padding(Text(first.reason), (0, 0, 0, 4)))
        console.print(Padding(Text(f"mend: {first.mend}"), (0, 0, 0, 4)))
        _print_nodes(console, findings, shown)
    console.print()


def _print_nodes(console: Console, findings: list[Finding], shown: int | None) -> None:
    same = len({finding.found for finding in findings}) == 1
    if same and len(findings) > 1:
        console.print(Padding(Text(f"found: {findings[0].found}"), (0, 0, 0, 4)))
    # Text, for names such as "[relu]" are markup to rich; names are not cut, to be searched for.
    for finding in findings[:shown]:
        line = Text(f"    {finding.node or '(file)'}")
        if not same or len(findings) == 1:
            line.append(f"  {finding.found}", style="dim")
        console.print(line, soft_wrap=True)
    rest = len(findings[shown:]) if shown is not None else 0
    if rest:
        console.print(Text(f"    + {rest} more (--all lists them)", style="dim"))
