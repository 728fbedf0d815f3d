"""What the linter finds in an ONNX file, and what it looks for."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from trt_int8.spec.base import Frozen
from trt_int8.spec.shapes import ShapeProfile

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")


class Goal(Frozen):
    """What the file is judged for.

    Attributes:
        sms: compute capabilities times ten.
        shapes: the profile of the engine.
    """

    sms: tuple[int, ...]
    shapes: ShapeProfile


class CheckInfo(Frozen):
    """One thing the linter looks for.

    Attributes:
        id: short name, stable between releases.
        severity: `error`: TensorRT rejects the file, or the engine computes something else.
            `warning`: it builds, but silently not INT8, not fused, slow or unsafe. `info`: good to
            know. A finding may be milder or graver than its check.
        what: what is looked for.
        reason: why it matters, with where that is known from.
        mend: what to do about it.
        fixable: `--fix` can mend it, at least in the usual case.
    """

    id: str
    severity: Severity
    what: str
    reason: str
    mend: str
    fixable: bool = False


class Finding(Frozen):
    """One place where a check struck.

    Attributes:
        check: id of the check.
        severity: see `CheckInfo`.
        node: name of the node, tensor or input; "" for the file as a whole.
        found: what was found there.
        reason: why it matters.
        mend: what to do about it.
        fixable: `--fix` can mend it here.
    """

    check: str
    severity: Severity
    node: str
    found: str
    reason: str
    mend: str
    fixable: bool


class LintReport(Frozen):
    """All findings in one file.

    Attributes:
        model: path of the file.
        targets: compute capabilities times ten that were judged for.
        shapes: the shape profile, as on the command line.
        nodes: nodes in the graph and in all that it contains; 0 if it could not be read so far.
        findings: errors first, then warnings, then infos; in the order of the table of checks.
        stopped: why the checks that need a sound graph did not run; "" if all ran.
    """

    model: str
    targets: tuple[int, ...]
    shapes: str
    nodes: int
    findings: tuple[Finding, ...]
    stopped: str = ""

    def count(self, severity: Severity) -> int:
        """How many findings have this severity."""
        return Counter(finding.severity for finding in self.findings)[severity]

    def of_check(self, check: str) -> tuple[Finding, ...]:
        """The findings of one check."""
        return tuple(finding for finding in self.findings if finding.check == check)


class FixReport(Frozen):
    """What `--fix` did.

    Attributes:
        path: the file that was written.
        steps: what was changed, in order, with node names.
        skipped: what could not be done, and why.
        after: the findings in the new file.
    """

    path: str
    steps: tuple[str, ...]
    skipped: tuple[str, ...]
    after: LintReport
