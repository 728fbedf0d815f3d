"""What the emulator's program said when it stopped, as one sentence and a kind.

The program writes lines that begin with `simt-` (simt/faults.cpp); sanitizers write their reports
in the words of GCC's libsanitizer.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from tests.kernels.report import FAULT_KINDS, FaultKind, KernelFault

_OWN_FAULT = re.compile(r"^simt-fault (\w+) (.*)$", re.MULTILINE)
_BUFFER = re.compile(r"^simt-buffer (0x[0-9a-f]+|\(nil\)) (\d+) (.*)$", re.MULTILINE)
_THREAD = re.compile(r"^simt-thread (.*)$", re.MULTILINE)
_ARGUMENT = re.compile(r"\bargument (\d+)\b")
_FRAME = re.compile(r"^\s+#\d+ .*? (\S+?):(\d+)(?::\d+)?(?: \(.*\))?$", re.MULTILINE)
_ADDRESS_ERROR = re.compile(r"AddressSanitizer: (\S+) on (?:unknown )?address (0x[0-9a-f]+)")
_SIZE = re.compile(r"^(READ|WRITE) of size (\d+)", re.MULTILINE)
_UNDEFINED = re.compile(r"^(\S+?):(\d+):\d+: runtime error: (.*)$", re.MULTILINE)
_ACCESS = re.compile(
    r"^  (?:Previous )?(?:[Aa]tomic )?(read|write|Read|Write) of size (\d+) at (0x[0-9a-f]+) by "
    r"(main thread|thread T\d+).*:\n((?:    #.*\n)+)",
    re.MULTILINE,
)
_THREAD_NAME = re.compile(r"^  Thread (T\d+) '([^']*)'", re.MULTILINE)
# Files that only carry out what a kernel asked for: never the line to blame.
_CARRIERS = re.compile(r"^(simt\w*\.h|ptx\w*\.cuh|unit\.cpp|sanitizer\w*|\w*interceptors\w*\..*)$")


@dataclass(frozen=True)
class Stretch:
    """Memory that the program announced: where it lies and what it is."""

    begin: int
    size: int
    name: str

    def distance(self, address: int) -> int:
        """Bytes from the stretch to `address`, 0 inside."""
        return max(self.begin - address, address - (self.begin + self.size) + 1, 0)


def fault_of(entry: str, status: int, told: str, parameters: Sequence[str] = ()) -> KernelFault:
    """The fault behind a program that ended with `status` after it wrote `told` to stderr.

    Args:
        entry: name of the kernel.
        status: exit status; negative: the signal that ended it.
        told: what it wrote to standard error.
        parameters: names of the kernel's parameters, put behind their numbers; may be empty.
    """
    kind, sentence = _judge(status, told)
    named = _ARGUMENT.sub(lambda found: _named(found, parameters), sentence)
    return KernelFault(kind, f"{entry}: {named}")


def _judge(status: int, told: str) -> tuple[FaultKind, str]:
    own = _OWN_FAULT.search(told)
    if own is not None:
        return next((kind for kind in FAULT_KINDS if kind == own[1]), "launch"), own[2]
    if "ThreadSanitizer: data race" in told:
        return "race", _race(told)
    address_error = _ADDRESS_ERROR.search(told)
    if address_error is not None:
        return _address_fault(told, address_error[1], int(address_error[2], 16))
    undefined = _UNDEFINED.search(told)
    if undefined is not None:
        kind: FaultKind = "misaligned" if "misaligned address" in undefined[3] else "undefined"
        line = _blamed(told[undefined.end() :]) or f"{PurePath(undefined[1]).name}:{undefined[2]}"
        return kind, f"{undefined[3]}, at {line}{_by_thread(told)}"
    if status < 0:
        return "crash", f"the process was ended by {signal.Signals(-status).name}"
    return "crash", f"the process ended with status {status} and said: {told.strip()[-1000:]}"


def _named(found: re.Match[str], parameters: Sequence[str]) -> str:
    number = int(found[1])
    return f"{found[0]} '{parameters[number]}'" if number < len(parameters) else found[0]


def _race(told: str) -> str:
    """Both accesses of ThreadSanitizer's first report."""
    names = dict(_THREAD_NAME.findall(told))
    accesses = list(_ACCESS.finditer(told))[:2]
    parts = [
        f"{access[1].lower()} of {access[2]} bytes"
        f" by {names.get(access[4].removeprefix('thread '), access[4])}"
        f" at {_blamed(access[5]) or 'an unknown line'}"
        for access in accesses
    ]
    place = _place(told, int(accesses[0][3], 16)) if accesses else "an unknown place"
    return f"data race at {place}: {', and '.join(parts)}, with no barrier between them"


def _address_fault(told: str, what: str, address: int) -> tuple[FaultKind, str]:
    """The first report of AddressSanitizer."""
    size = _SIZE.search(told)
    access = f"{size[1].lower()} of {size[2]} bytes" if size else "access"
    line = _blamed(told) or "an unknown line"
    where = f" at {line}{_by_thread(told)}"
    if what in ("SEGV", "stack-overflow", "BUS", "FPE"):
        return "crash", f"{what} in an {access}{where}"
    return "out_of_bounds", f"{access}{where} hits {_place(told, address)} ({what})"


def _place(told: str, address: int) -> str:
    """The announced memory nearest to `address`, and which of its bytes that is."""
    stretches = [
        Stretch(int(begin, 16), int(size), name)
        for begin, size, name in _BUFFER.findall(told)
        if begin != "(nil)"
    ]
    if not stretches:
        return f"address {address:#x}"
    nearest = min(stretches, key=lambda stretch: stretch.distance(address))
    return f"byte {address - nearest.begin} of {nearest.name}, which has {nearest.size}"


def _by_thread(told: str) -> str:
    thread = _THREAD.search(told)
    return f" by {thread[1]}" if thread else ""


def _blamed(stack: str) -> str | None:
    """The line of the first frame that is the kernel's own; None without one."""
    frames = [(PurePath(path).name, line) for path, line in _FRAME.findall(stack)]
    own = [frame for frame in frames if not _CARRIERS.match(frame[0])]
    chosen = own or frames
    return f"{chosen[0][0]}:{chosen[0][1]}" if chosen else None
