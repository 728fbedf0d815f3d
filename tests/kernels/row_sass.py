"""What the machine code of both kernels over rows is asked for."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from tests.kernels.sass import SMS, Requirement, Sass, register_limit
from trt_int8.plugins.compile import compile_ptx
from trt_int8.plugins.kernel import KERNEL_SMS, KernelVariant

# The architectures that PTX is shipped for in each run; those that the driver carries it to, slow.
ON_EACH_CARD = pytest.mark.parametrize(
    "sm", [sm if sm in KERNEL_SMS else pytest.param(sm, marks=pytest.mark.slow) for sm in SMS]
)
# PTX opcodes by the one machine instruction that each of them becomes.
_ARITHMETIC = {"FFMA": ("fma.rn.f32",), "FMUL": ("mul.f32",), "FADD": ("add.f32", "sub.f32")}


def requirement(needs: dict[str, int], threads: int, blocks: int) -> Requirement:
    """No spill, these accesses, and registers with which so many blocks fit a multiprocessor."""
    return Requirement(needs=tuple(needs.items()), registers=register_limit(threads, blocks))


def unfused(variant: KernelVariant, sass: Sass) -> dict[str, tuple[int, int]]:
    """Additions, products and fused ones: (in the machine code, in the PTX) where they differ.

    The model's bits hold on a card only if the assembler fuses and splits nothing.
    """
    opcode = re.compile(r"^\s*(?:@\S+\s+)?([a-z][a-z0-9_.]+)\s", re.MULTILINE)
    ptx = Counter(name.replace(".rn.f32", ".f32") for name in opcode.findall(_text(variant)))
    counts = {
        name: (sass.count(name), sum(ptx[part.replace(".rn.f32", ".f32")] for part in parts))
        for name, parts in _ARITHMETIC.items()
    }
    return {name: pair for name, pair in counts.items() if pair[0] != pair[1]}


def _text(variant: KernelVariant) -> str:
    return compile_ptx(variant).ptx
