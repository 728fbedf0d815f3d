"""Run one kernel of `micro/`, the smallest kernels there can be, on a CPU layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.kernels.layers import Layer, run_on
from tests.kernels.report import RunReport
from trt_int8.plugins.kernel import Argument, KernelLaunch, KernelVariant

MICRO_FOLDER = Path(__file__).parent / "micro"
BLOCK_THREADS = 128


@dataclass(frozen=True)
class Micro:
    """A file of `micro/` compiled for one architecture and run on one layer."""

    layer: Layer
    sm: int
    file: str

    def launch(
        self,
        entry: str,
        *,
        grid: tuple[int, int, int] = (1, 1, 1),
        block: int = 32,
        shared_bytes: int = 0,
    ) -> KernelLaunch:
        """The launch of one of the file's kernels."""
        variant = KernelVariant(str(MICRO_FOLDER / self.file), entry, self.sm)
        return KernelLaunch(variant, grid, block, shared_bytes)

    def run(self, launch: KernelLaunch, *arguments: Argument) -> RunReport:
        """Run it; Output arrays are filled."""
        return run_on(self.layer, launch, arguments)

    def each(self, entry: str, elements: int, arguments: Sequence[Argument]) -> RunReport:
        """Run a kernel of one thread per element over `elements` of them."""
        blocks = (elements + BLOCK_THREADS - 1) // BLOCK_THREADS
        return self.run(self.launch(entry, grid=(blocks, 1, 1), block=BLOCK_THREADS), *arguments)
