"""What the assembler makes of a shipped PTX text: machine instructions, registers, memory.

The driver assembles the PTX once more at the user's site and may allocate otherwise; this is what
ptxas of the pinned CUDA release does.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.kernels.tools import disassembler, ptxas
from trt_int8.files import write_whole
from trt_int8.plugins.compile import cache_folder, compile_ptx
from trt_int8.plugins.kernel import KERNEL_SMS, KernelVariant

# Turing, Ampere (A100, A10/RTX 30), Ada, Hopper, Blackwell RTX.
SMS = (75, 80, 86, 89, 90, 120)
# CUDA C++ Programming Guide, "Technical Specifications per Compute Capability", all of SMS:
# registers of a multiprocessor, handed to warps in units of 256, and at most 255 to a thread.
REGISTERS_OF_SM = 65536
REGISTER_UNIT = 8
MOST_REGISTERS = 255
# What the system keeps of each block's shared memory (same table); from sm_90 on, cubins of kernels
# with dynamic shared memory count it.
RESERVED_SHARED_BYTES = 1024
_WHEELS = ("nvidia-cuda-nvcc-cu12", "nvidia-cuda-nvdisasm", "nvidia-cuda-cuobjdump")
# "/*0090*/  @!P0 IMMA.16832.S8.S8 R4, ..." of nvdisasm.
_INSTRUCTION = re.compile(
    r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:\{\s*)?(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)", re.MULTILINE
)


@dataclass(frozen=True)
class Sass:
    """One kernel for one architecture.

    Attributes:
        registers: of a thread.
        stack_bytes, local_bytes: memory of a thread outside of its registers.
        shared_bytes: static shared memory of a block, without what the system keeps.
        opcodes: static instructions by opcode with its modifiers, such as "IMMA.16832.S8.S8".
    """

    registers: int
    stack_bytes: int
    local_bytes: int
    shared_bytes: int
    opcodes: Mapping[str, int]

    def count(self, prefix: str) -> int:
        """Instructions whose opcode is `prefix` or goes on with a dot after it."""
        return sum(
            count for name, count in self.opcodes.items() if f"{name}.".startswith(f"{prefix}.")
        )


@dataclass(frozen=True)
class Requirement:
    """What the gate asks of a kernel.

    Attributes:
        needs: least number of instructions by opcode prefix.
        forbids: opcode prefixes that may not occur; STL and LDL are spills and stack arrays.
        registers: most registers of a thread.
    """

    needs: tuple[tuple[str, int], ...] = ()
    forbids: tuple[str, ...] = ("STL", "LDL")
    registers: int = MOST_REGISTERS

    def complaints(self, sass: Sass) -> list[str]:
        """One sentence for each thing that is not as asked."""
        found = [
            f"{sass.count(name)} {name}, wanted at least {least}"
            for name, least in self.needs
            if sass.count(name) < least
        ]
        found += [f"{sass.count(name)} {name}" for name in self.forbids if sass.count(name)]
        if sass.registers > self.registers:
            found.append(f"{sass.registers} registers, wanted at most {self.registers}")
        memory = {"stack": sass.stack_bytes, "local": sass.local_bytes, "shared": sass.shared_bytes}
        found += [f"{size} bytes of {name} memory" for name, size in memory.items() if size]
        return found


def register_limit(threads: int, blocks: int) -> int:
    """Registers of a thread at which so many blocks of so many threads fit a multiprocessor."""
    most = REGISTERS_OF_SM // (threads * blocks) // REGISTER_UNIT * REGISTER_UNIT
    return min(most, MOST_REGISTERS)


def shipped_for(sm: int) -> int:
    """Architecture of the PTX that a card of `sm` is given."""
    return max(known for known in KERNEL_SMS if known <= sm)


def sass_of(variant: KernelVariant, sm: int) -> Sass:
    """Assemble the PTX of a variant for a card; kept in the cache of compiled kernels.

    Raises:
        AssertionError: ptxas or a disassembler failed; the message has its output.
    """
    ptx = compile_ptx(variant).ptx
    versions = [importlib.metadata.version(name) for name in _WHEELS]
    key = hashlib.sha256(json.dumps([ptx, variant.entry, sm, versions]).encode()).hexdigest()
    place = cache_folder().parent / "sass" / f"{key}.json"
    try:
        return Sass(**json.loads(place.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        made, _ = assemble(ptx, variant.entry, sm)
    place.parent.mkdir(parents=True, exist_ok=True)
    write_whole(place, json.dumps(asdict(made)).encode())
    return made


def assemble(ptx: str, entry: str, sm: int) -> tuple[Sass, str]:
    """Machine code of a PTX text, and its listing by nvdisasm.

    Raises:
        AssertionError: as `sass_of`.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "k.ptx").write_text(ptx, encoding="utf-8")
        _run(folder, ptxas(), f"-arch=sm_{sm}", "--entry", entry, "k.ptx", "-o", "k.cubin")
        code = _run(folder, disassembler("nvdisasm"), "-c", "k.cubin")
        usage = _run(folder, disassembler("cuobjdump"), "--dump-resource-usage", "k.cubin")
    # The line after "Function i_gelu:" reads "REG:26 STACK:0 SHARED:0 LOCAL:0 CONSTANT[0]:416 ...".
    line = re.search(rf"Function {re.escape(entry)}:\s*(.*)", usage)
    assert line is not None, usage
    sizes = dict(re.findall(r"(\w+):(\d+)", line[1]))
    opcodes = Counter(_INSTRUCTION.findall(code))
    assert opcodes["EXIT"], code[:2000]
    made = Sass(
        registers=int(sizes["REG"]),
        stack_bytes=int(sizes["STACK"]),
        local_bytes=int(sizes["LOCAL"]),
        shared_bytes=max(0, int(sizes["SHARED"]) - (RESERVED_SHARED_BYTES if sm >= 90 else 0)),
        opcodes=dict(opcodes),
    )
    return made, code


def _run(folder: Path, tool: Path | None, *arguments: str) -> str:
    done = subprocess.run(
        [str(tool), *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{tool} {arguments}: {done.stdout}{done.stderr}"
    return done.stdout
