"""Bugs that someone could write into a kernel, and which layers of the tests see each.

Each is one change of a source in `trt_int8/plugins/cuda/`, or of the launch. What a layer is known
not to see is said as well: that is why there are several. The mistakes of a plugin's definition are
in `front_end/mutations.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tests.kernels.report import FaultKind

# "emulator": plain, several schedules; "address", "thread": with that sanitizer; "interpreter": the
# PTX text.
PlantedLayer = Literal["emulator", "address", "thread", "interpreter"]
# A fault of that kind; "wrong": other numbers than without the bug; "conflicts": more than one
# wavefront per matrix; "nothing": the layer is known not to see it.
Outcome = FaultKind | Literal["wrong", "conflicts", "nothing"]


@dataclass(frozen=True)
class PlantedBug:
    """One mistake.

    Attributes:
        name: short, unique.
        file: source that it is in; None: the launch is wrong.
        text: what stands there, exactly once.
        replacement: what stands there with the mistake.
        case: launch of `cases.CASES` that it shows on.
        seen: what each layer makes of it; layers that are not named are not asked.
        sm: architecture that the bug is in.
        missing_shared_bytes: how much too small the launch's shared memory is.
    """

    name: str
    file: str | None
    text: str
    replacement: str
    case: str
    seen: Mapping[PlantedLayer, Outcome]
    sm: int = 80
    missing_shared_bytes: int = 0


def _everywhere(outcome: Outcome) -> dict[PlantedLayer, Outcome]:
    return {
        "emulator": outcome,
        "address": outcome,
        "thread": outcome,
        "interpreter": outcome,
    }


# The emulator runs the host branch of ptx*.cuh, never the assembly.
_ONLY_THE_INTERPRETER: dict[PlantedLayer, Outcome] = {
    "emulator": "nothing",
    "interpreter": "wrong",
}

PLANTED: tuple[PlantedBug, ...] = (
    # Memory
    PlantedBug(
        "a row is stored past the output",
        "int8_attention.cu",
        "if (row < head.queries) store_four(",
        "if (row <= head.queries) store_four(",
        "several_tiles",
        _everywhere("out_of_bounds"),
    ),
    PlantedBug(
        "the mask is read past its end",
        "attention_softmax.cuh",
        "const int last = mask.keys - 1;",
        "const int last = mask.keys + 63;",
        "full_rows",
        # Keys past the end are hidden afterwards, whatever was read.
        {"emulator": "nothing", "address": "out_of_bounds", "interpreter": "out_of_bounds"},
    ),
    PlantedBug(
        "keys past the last one are copied",
        "attention_tiles.cuh",
        "min(key, last_key_)",
        "key",
        "several_tiles",
        _everywhere("out_of_bounds"),
    ),
    PlantedBug(
        "shared memory is 16 bytes too small",
        None,
        "",
        "",
        "full_rows",
        _everywhere("out_of_bounds"),
        missing_shared_bytes=16,
    ),
    PlantedBug(
        "rows of a tile are not aligned",
        "attention_tiles.cuh",
        "constexpr int STRIDE = 16 * (WORDS % 2 ? WORDS : WORDS + 1);",
        "constexpr int STRIDE = 16 * WORDS + 8;",
        "several_tiles",
        _everywhere("misaligned"),
    ),
    PlantedBug(
        "rows of a tile all begin in the same banks",
        "attention_tiles.cuh",
        "constexpr int STRIDE = 16 * (WORDS % 2 ? WORDS : WORDS + 1);",
        "constexpr int STRIDE = 16 * WORDS;",
        "several_tiles",
        {"emulator": "conflicts", "interpreter": "conflicts"},
    ),
    # Barriers
    PlantedBug(
        "no barrier before a tile is read",
        "int8_attention.cu",
        "        ptx::sync_threads();\n        if (key0 + KEYS < block_keys)",
        "        if (key0 + KEYS < block_keys)",
        "several_tiles",
        {"emulator": "wrong", "thread": "race", "interpreter": "race"},
    ),
    PlantedBug(
        "a tile is overwritten before the barrier",
        "int8_attention.cu",
        "        ptx::sync_threads();\n"
        "        if (key0 + KEYS < block_keys) copier.fetch(key0 + KEYS, buffer ^ 1);",
        "        if (key0 + KEYS < block_keys) copier.fetch(key0 + KEYS, buffer ^ 1);\n"
        "        ptx::sync_threads();",
        "several_tiles",
        {"thread": "race", "interpreter": "race"},
    ),
    PlantedBug(
        "the table is read before it is full",
        "bias_gelu_quant.cu",
        "    ptx::sync_threads();\n    int results",
        "    int results",
        "table_of_codes",
        # The interpreter runs warp by warp: what is read too early nobody has written yet.
        {
            "emulator": "wrong",
            "address": "wrong",
            "thread": "race",
            "interpreter": "uninitialised",
        },
    ),
    PlantedBug(
        "no barrier between the sums of the warps",
        "skip_layernorm_quant.cu",
        "        ptx::sync_threads();\n",
        "",
        "two_warps_a_row",
        {"emulator": "wrong", "thread": "race", "interpreter": "uninitialised"},
    ),
    PlantedBug(
        "the second sum is written where the first is still read",
        "skip_layernorm_quant.cu",
        "sum_over_row(sums, scratch + kSlots);",
        "sum_over_row(sums, scratch);",
        "two_warps_a_row",
        # A write after a read: only race detectors see it in every order.
        {"thread": "race", "interpreter": "race"},
    ),
    # Asynchronous copies
    PlantedBug(
        "a copy is waited for too weakly",
        "attention_tiles.cuh",
        "ptx::cp_async_wait<0>();",
        "ptx::cp_async_wait<1>();",
        "several_tiles",
        {"emulator": "in_flight", "thread": "race", "interpreter": "in_flight"},
    ),
    PlantedBug(
        "copies are never committed",
        "attention_tiles.cuh",
        "        ptx::cp_async_commit();\n",
        "",
        "several_tiles",
        {"emulator": "in_flight", "address": "in_flight", "interpreter": "in_flight"},
    ),
    # Threads that must meet
    PlantedBug(
        "a shuffle in a branch that lanes take alone",
        "attention_softmax.cuh",
        "if (!ptx::warp_any(larger)) return;",
        "if (!larger) return;",
        "several_tiles",
        _everywhere("divergence"),
    ),
    PlantedBug(
        "warps without a query leave before the barrier",
        "int8_attention.cu",
        "if (key0 >= some_keys || first_row > last_row) continue;",
        "if (key0 >= some_keys || first_row > last_row) return;",
        "several_tiles",
        # On sm_80 their copies under way would be told first.
        _everywhere("divergence"),
        sm=75,
    ),
    # Numbers and outputs
    PlantedBug(
        "the distance of two scores overflows",
        "integer_ops.cu",
        "own += exponential(top - static_cast<uint32_t>(value));",
        "own += exponential(static_cast<uint32_t>(highest - value));",
        "far_scores",
        # Two's complement makes the same of it, and PTX says that it may.
        {"emulator": "nothing", "address": "undefined", "interpreter": "nothing"},
    ),
    PlantedBug(
        "what rounding leaves of a far score makes a probability of more than one",
        "attention_softmax.cuh",
        "power(top, m, r) > 0.0f ? 1.0f : 0.0f;",
        "0.0f;",
        "behind_padding",
        _everywhere("wrong"),
    ),
    PlantedBug(
        "the last row is not written",
        "int8_attention.cu",
        "if (row < head.queries) store_four(",
        "if (row + 1 < head.queries) store_four(",
        "several_tiles",
        {"emulator": "wrong", "address": "wrong", "interpreter": "output"},
    ),
    PlantedBug(
        "threads without a row write the last one again",
        "skip_layernorm_quant.cu",
        "            if (writes) {\n                elements::store(y +",
        "            if (writes || own_row >= rows) {\n                elements::store(y +",
        "half_filled_block",
        # The bytes are the same.
        {"emulator": "nothing", "address": "nothing", "thread": "race", "interpreter": "output"},
    ),
    # Assembly
    PlantedBug(
        "mma takes two registers of A the wrong way round",
        "ptx_warp.cuh",
        '                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))',
        '                 : "r"(a[1]), "r"(a[0]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))',
        "one_product",
        _ONLY_THE_INTERPRETER,
    ),
    PlantedBug(
        "mma takes unsigned bytes as signed",
        "ptx_warp.cuh",
        'PTX_MMA("u8");',
        'PTX_MMA("s8");',
        "one_product",
        _ONLY_THE_INTERPRETER,
    ),
    PlantedBug(
        "m8n8k16 takes B for A",
        "ptx_warp.cuh",
        '                 : "r"(a[a_word]), "r"(b[b_word]))',
        '                 : "r"(b[b_word]), "r"(a[a_word]))',
        "one_product",
        _ONLY_THE_INTERPRETER,
        sm=75,
    ),
    PlantedBug(
        "ldmatrix does not transpose",
        "ptx_warp.cuh",
        "m8n8.x4.trans.shared",
        "m8n8.x4.shared",
        "transposed_load",
        _ONLY_THE_INTERPRETER,
    ),
    PlantedBug(
        "conversion to int8 rounds towards zero",
        "ptx.cuh",
        "cvt.rni.sat.s8.f32",
        "cvt.rzi.sat.s8.f32",
        "roundings",
        _ONLY_THE_INTERPRETER,
    ),
    PlantedBug(
        "the two words of a byte permutation change places",
        "ptx.cuh",
        '"r"(low), "r"(high), "r"(selector)',
        '"r"(high), "r"(low), "r"(selector)',
        "byte_choices",
        _ONLY_THE_INTERPRETER,
    ),
    PlantedBug(
        "the product of unsigned bytes takes them as signed",
        "ptx.cuh",
        "dp4a.u32.u32",
        "dp4a.s32.s32",
        "byte_products",
        _ONLY_THE_INTERPRETER,
    ),
)
