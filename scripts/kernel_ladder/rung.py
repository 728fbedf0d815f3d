"""One version of a kernel: how its PTX is made from the shipped sources, and what it is checked by.

A rung is the shipped kernel with other macros, with some of its text replaced, or a source of its
own. A text that is to be replaced and is not there exactly as often as said stops the run, so that
a rung never counts as a version that it no longer is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from trt_int8.plugins.compile import compile_options, portable, read_sources
from trt_int8.plugins.kernel import Argument, KernelLaunch, KernelVariant, sorted_defines
from trt_int8.plugins.toolchain import Program, find_compiler

FOLDER = Path(__file__).parent
Judge = Literal["bits", "contract", "bytes", "whole"]


class LadderError(Exception):
    """A rung cannot be built from today's sources, or gives wrong results."""


@dataclass(frozen=True)
class Change:
    """A text of a shipped source, and what stands there instead.

    Attributes:
        file: in `cuda/`.
        old: occurs `times` times.
        new: takes its place each time.
        times: how often `old` occurs.
    """

    file: str
    old: str
    new: str
    times: int = 1


@dataclass(frozen=True)
class Rung:
    """One version.

    Attributes:
        name: what the table calls it.
        verdict: whether and where it is kept, or why not.
        defines: macros that differ from those of the shipped variant.
        changes: texts that differ.
        source: file in this folder that is compiled instead of the shipped source; its entry has
            the name of the file.
        blocks: blocks along x, where the version needs another number than the shipped kernel.
        threads: threads of a block, likewise.
        judge: what the results are compared with: "bits" of the kernel's NumPy model; "contract":
            codes of the model or of float64, at most a step off; "bytes" and "whole": the two
            versions of attention with other rounding, in float64 and at most a step off.
    """

    name: str
    verdict: str
    defines: tuple[tuple[str, int], ...] = ()
    changes: tuple[Change, ...] = ()
    source: str = ""
    blocks: int = 0
    threads: int = 0
    judge: Judge = "bits"

    @property
    def is_shipped(self) -> bool:
        """Whether nothing differs from the shipped kernel."""
        return not (self.defines or self.changes or self.source)

    def launch(self, shipped: KernelLaunch) -> KernelLaunch:
        """The shipped launch with what differs."""
        variant = shipped.variant
        defines = sorted_defines({**dict(variant.defines), **dict(self.defines)})
        variant = replace(variant, defines=defines)
        if self.source:
            variant = replace(variant, source=self.source, entry=Path(self.source).stem)
        return KernelLaunch(
            variant,
            (self.blocks or shipped.grid[0], *shipped.grid[1:]),
            self.threads or shipped.block,
            shipped.shared_bytes,
        )

    def ptx(self, variant: KernelVariant) -> str:
        """PTX of `launch(...).variant`, as the shipped kernels get theirs.

        Raises:
            LadderError: a text to replace is not there as often as it should be.
            PluginError: the version does not compile.
        """
        sources = self._own_sources() if self.source else read_sources(variant.source)
        sources = changed(sources, self.changes)
        program = Program(variant.source, sources, compile_options(variant))
        return portable(find_compiler().ptx(program), variant.sm)

    def _own_sources(self) -> dict[str, str]:
        text = (FOLDER / self.source).read_text(encoding="utf-8")
        return {**read_sources("ptx.cuh"), self.source: text}


@dataclass(frozen=True)
class Trial:
    """A launch of the shipped kernel, and how the results of a version of it are judged.

    Attributes:
        launch: of the shipped kernel.
        arguments: of the launch.
        complaint: "" if the arrays behind the outputs are right; else what is wrong.
    """

    launch: KernelLaunch
    arguments: Sequence[Argument]
    complaint: Callable[[Judge], str]


def changed(sources: Mapping[str, str], changes: Sequence[Change]) -> dict[str, str]:
    """`sources` with every change made.

    Raises:
        LadderError: a text to replace is not there as often as it should be.
    """
    texts = dict(sources)
    for change in changes:
        found = texts.get(change.file, "").count(change.old)
        if found != change.times:
            raise LadderError(
                f"{change.file} has {change.old!r} {found} times, wanted {change.times}: "
                "write the change of this version anew"
            )
        texts[change.file] = texts[change.file].replace(change.old, change.new)
    return texts
