"""Attention and the integer kernels, as ptxas makes them from the shipped PTX.

The right matrix instructions, no spills, registers for the wanted blocks. `make test` looks at
heads of 64 and one form of each integer kernel on each architecture, `make test-slow` at all. The
kernels over rows have gates of their own beside this one.
"""

from __future__ import annotations

import pytest

from tests.kernels.sass import (
    RESERVED_SHARED_BYTES,
    SMS,
    Requirement,
    register_limit,
    sass_of,
    shipped_for,
)
from tests.kernels.tools import needs_disassembler, needs_nvrtc, needs_ptxas
from trt_int8.plugins import attention
from trt_int8.plugins.attention import HEAD_DIMS, AttentionOptions, AttentionShape
from trt_int8.plugins.integer_ops import IntegerGelu, IntegerLayerNorm, IntegerSoftmax
from trt_int8.plugins.kernel import SHARED_MEMORY_LIMIT_BYTES, KernelLaunch

pytestmark = [needs_nvrtc, needs_ptxas, needs_disassembler]
every_sm = pytest.mark.parametrize("sm", SMS)

# Blocks of 128 threads on a multiprocessor, on sm_75 and later, of attention without mask. The
# registers of two fit with any count that has no spills; they are what the other forms are asked
# for. Heads of 128 take 36 KiB of shared memory, and sm_75 has 64.
ATTENTION_BLOCKS = {16: (3, 3), 32: (3, 3), 64: (2, 2), 80: (2, 3), 96: (2, 3), 128: (1, 2)}
# KiB of shared memory of a multiprocessor (CUDA C++ Programming Guide, "Technical Specifications
# per Compute Capability"). From sm_80 on the system keeps one of them for each block.
SHARED_KIB = {75: 64, 80: 164, 86: 100, 89: 100, 90: 228, 120: 100}
# The integer kernels fill a multiprocessor of sm_75: 1024 threads.
INTEGER = Requirement(registers=register_limit(1024, 1))

ATTENTION_FORMS = [
    options
    for head_dim in HEAD_DIMS
    for options in (
        AttentionOptions(head_dim),
        AttentionOptions(head_dim, "lengths", causal=True, layout="packed"),
        AttentionOptions(head_dim, "keys", half_output=True),
        AttentionOptions(head_dim, "full", layout="packed"),
        AttentionOptions(head_dim, causal=True, layout="ragged"),
    )
]


def integer_launches(sm: int) -> list[KernelLaunch]:
    """One of each kernel, then the other forms."""
    ones, zeros = (1.0,) * 128, (0.0,) * 128
    return [
        IntegerGelu(1e-3, 0.05).launch(999, sm),
        IntegerSoftmax(1e-3).launch(9, 127, sm),
        IntegerLayerNorm(ones, zeros, 0.05).launch(9, sm),
        IntegerSoftmax(1e-3).launch(9, 128, sm),
        IntegerSoftmax(1e-3, signed=True).launch(9, 127, sm),
        IntegerSoftmax(1e-3, signed=True).launch(9, 128, sm),
        IntegerLayerNorm(ones[1:], zeros[1:], 0.05).launch(9, sm),
    ]


def attention_blocks(options: AttentionOptions, sm: int) -> int:
    """Blocks that shall fit a multiprocessor."""
    blocks = ATTENTION_BLOCKS[options.head_dim][sm >= 80]
    return blocks if options == AttentionOptions(options.head_dim) else min(blocks, 2)


def attention_requirement(options: AttentionOptions, sm: int) -> Requirement:
    """m8n8k16 on sm_75; from sm_80 on m16n8k32 and nothing narrower, and asynchronous copies.

    At least what 16 queries and 64 keys take, for q k^T (over D) and for p v (over the keys).
    """
    head_dim = options.head_dim
    limit = register_limit(attention.BLOCK, attention_blocks(options, sm))
    spilt = ("STL", "LDL", "HMMA")
    if sm < 80:
        quarters = 2 * 8 * (head_dim // 16) + 2 * (head_dim // 8) * 4
        return Requirement((("IMMA.8816", quarters), ("LDSM", 1)), spilt, limit)
    products = 8 * -(-head_dim // 32) + (head_dim // 8) * 2
    return Requirement(
        (("IMMA.16832", products), ("LDSM", 1), ("LDGSTS", 1)),
        (*spilt, "IMMA.16816", "IMMA.8816"),
        limit,
    )


def complaints(launch: KernelLaunch, sm: int, requirement: Requirement) -> list[str]:
    assert launch.variant.sm == shipped_for(sm)
    assert launch.shared_bytes <= SHARED_MEMORY_LIMIT_BYTES
    return requirement.complaints(sass_of(launch.variant, sm))


def attention_complaints(options: AttentionOptions, sm: int) -> list[str]:
    launch = attention.launch(options, AttentionShape(1, 64, 64, 1), shipped_for(sm))
    return complaints(launch, sm, attention_requirement(options, sm))


@every_sm
def test_attention_of_64(sm: int) -> None:
    assert attention_complaints(AttentionOptions(64), sm) == []


@every_sm
@pytest.mark.slow
@pytest.mark.parametrize("options", ATTENTION_FORMS, ids=str)
def test_attention_of_every_form(options: AttentionOptions, sm: int) -> None:
    assert attention_complaints(options, sm) == []


@every_sm
@pytest.mark.parametrize("options", ATTENTION_FORMS, ids=str)
def test_shared_memory_has_room_for_the_blocks_of_attention(
    options: AttentionOptions, sm: int
) -> None:
    each = options.shared_bytes + (RESERVED_SHARED_BYTES if sm >= 80 else 0)
    assert attention_blocks(options, sm) * each <= SHARED_KIB[sm] * 1024


@every_sm
def test_integer_kernels(sm: int) -> None:
    for launch in integer_launches(shipped_for(sm))[:3]:
        assert complaints(launch, sm, INTEGER) == [], launch.variant


@every_sm
@pytest.mark.slow
def test_integer_kernels_of_every_form(sm: int) -> None:
    for launch in integer_launches(shipped_for(sm)):
        assert complaints(launch, sm, INTEGER) == [], launch.variant
