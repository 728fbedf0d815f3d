"""Run a kernel's CUDA source on the CPU: g++ compiles it, one fiber is one CUDA thread.

The kernel runs in a process of its own, so that a crash is a fault and not the end of pytest. What
the emulator checks is told in `simt/`; it never sees the inline assembly of `ptx.cuh`, which the
PTX interpreter runs.
"""

from __future__ import annotations

import os
import platform
import struct
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tests.kernels.emulator_build import BuildOptions, Sanitizer, parameter_names, program
from tests.kernels.emulator_faults import fault_of
from tests.kernels.report import KernelFault, RunReport, Traffic
from trt_int8.plugins.kernel import (
    SHARED_MEMORY_LIMIT_BYTES,
    Argument,
    Input,
    KernelLaunch,
    Output,
)

# Kinds of a parameter as simt/runner.h numbers them.
_INPUT, _INTEGER, _OUTPUT = 0, 1, 2
MOST_THREADS = 1024
_OPTIONS: dict[Sanitizer | None, dict[str, str]] = {
    None: {},
    "address": {
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "UBSAN_OPTIONS": "abort_on_error=1",
    },
    "thread": {"TSAN_OPTIONS": "report_thread_leaks=0:halt_on_error=1:atexit_sleep_ms=0"},
}
# What the sanitizers of GCC 12 say now and then where Linux spreads addresses over 32 random bits
# (vm.mmap_rnd_bits): the place of their shadow memory was taken.
_NO_PLACE_FOR_SHADOW = (b"unexpected memory mapping", b"Shadow memory range interleaves")
_COUNTERS = struct.Struct("<2Q")


@dataclass(frozen=True)
class Emulator:
    """The kernel's source under g++, plain or with a sanitizer.

    Attributes:
        sanitizer: "address" adds AddressSanitizer and UndefinedBehaviorSanitizer, "thread"
            ThreadSanitizer, to which shuffles and mma order nothing; None is the fast one.
        portable_switch: threads switch as on processors that the emulator has no assembly for.
        timeout_seconds: a run that takes longer is a fault ("limit").
    """

    sanitizer: Sanitizer | None = None
    portable_switch: bool = False
    timeout_seconds: float = 200.0

    def run(self, launch: KernelLaunch, arguments: Sequence[Argument], seed: int = 0) -> RunReport:
        """Run the launch; the Output arrays are filled.

        Args:
            launch: kernel, grid, block and dynamic shared memory.
            arguments: in the order of the kernel's parameters.
            seed: order of threads: 0 as numbered, 1 reversed, others shuffled in each round.
                Asynchronous copies land as late as they may, at once where seed % 3 is 2.

        Raises:
            KernelFault: the kernel broke a rule, crashed, or does not fit the launch.
        """
        _check(launch)
        path = program(launch.variant, BuildOptions(self.sanitizer, self.portable_switch))
        job = _job(launch, arguments, seed)
        done = self._execute([str(path)], job, launch.variant.entry)
        if any(words in done.stderr for words in _NO_PLACE_FOR_SHADOW):
            fixed_addresses = ["setarch", platform.machine(), "--addr-no-randomize", str(path)]
            done = self._execute(fixed_addresses, job, launch.variant.entry)
        if done.returncode != 0:
            names = parameter_names(launch.variant)
            told = done.stderr.decode(errors="replace")
            raise fault_of(launch.variant.entry, done.returncode, told, names)
        return _take(done.stdout, arguments)

    def _execute(
        self, command: list[str], job: bytes, entry: str
    ) -> subprocess.CompletedProcess[bytes]:
        try:
            return subprocess.run(
                command,
                input=job,
                capture_output=True,
                env={**os.environ, **_OPTIONS[self.sanitizer]},
                timeout=self.timeout_seconds,
                check=False,
            )
        except subprocess.TimeoutExpired:
            message = f"{entry} did not end within {self.timeout_seconds:g} seconds"
            raise KernelFault("limit", message) from None


def _check(launch: KernelLaunch) -> None:
    """Refuse what no GPU would start (CUDA C Programming Guide, "Compute Capabilities")."""
    limits = (2**31 - 1, 65535, 65535)
    if not all(0 < blocks <= limit for blocks, limit in zip(launch.grid, limits, strict=True)):
        raise KernelFault("launch", f"grid {launch.grid}, wanted 1 to {limits} blocks")
    if not 0 < launch.block <= MOST_THREADS:
        raise KernelFault("launch", f"block of {launch.block} threads, wanted 1 to {MOST_THREADS}")
    if not 0 <= launch.shared_bytes <= SHARED_MEMORY_LIMIT_BYTES:
        message = f"{launch.shared_bytes} bytes of shared memory"
        raise KernelFault("launch", f"{message}, wanted at most {SHARED_MEMORY_LIMIT_BYTES}")


def _job(launch: KernelLaunch, arguments: Sequence[Argument], seed: int) -> bytes:
    """The job as simt/runner.cpp reads it."""
    entry = launch.variant.entry.encode()
    words = [seed, *launch.grid, launch.block, launch.shared_bytes, len(arguments)]
    inputs: list[bytes] = []
    for argument in arguments:
        if isinstance(argument, Input):
            data = np.ascontiguousarray(argument.array).tobytes()
            words += [_INPUT, len(data)]
            inputs.append(data)
        elif isinstance(argument, Output):
            words += [_OUTPUT, argument.array.nbytes]
        else:
            words += [_INTEGER, argument & 0xFFFFFFFF]
    head = struct.pack(f"<{len(words) + 1}Q", len(entry), *words)
    return head[:8] + entry + head[8:] + b"".join(inputs)


def _take(answer: bytes, arguments: Sequence[Argument]) -> RunReport:
    """Fill the Output arrays from the program's answer."""
    requests, wavefronts = _COUNTERS.unpack_from(answer)
    at = _COUNTERS.size
    for argument in arguments:
        if isinstance(argument, Output):
            array = argument.array
            data = np.frombuffer(answer, np.uint8, array.nbytes, at)
            array[...] = data.view(array.dtype).reshape(array.shape)
            at += array.nbytes
    shared = {"ldmatrix": Traffic(requests, wavefronts)} if requests else {}
    return RunReport(layer="emulator", shared=shared)
