"""Which attentions TensorRT fuses to one INT8 kernel: head sizes and lengths per SM."""

from __future__ import annotations

from collections.abc import Iterable

# Longest sequence by head dim, read from plans that TensorRT-RTX 1.7 built for each SM (its INT8
# kernel holds a whole row of K and V on chip); TensorRT 8.6 to 10 document head sizes 16, 32, 64
# and 512 tokens. Other head sizes, among them 40, 48, 80, 96, 128 and 256, were never fused.
_TURING = {16: 512, 32: 512, 64: 384}
_AMPERE_AND_LATER = {16: 512, 32: 512, 64: 512}
_TURING_SM = 75
# With one head, sizes 32 and 64 were not fused as INT8, with two they were (same plans); in float16
# one head is fused.
FEWEST_HEADS = 2


def longest_int8_attention(head_dim: int, sm: int | None) -> int:
    """The longest sequence S for which attention is one INT8 kernel; 0 if there is none.

    Args:
        head_dim: D.
        sm: compute capability times ten; None (a card not known yet) gives the least of all.
    """
    limits = _TURING if sm is None or sm <= _TURING_SM else _AMPERE_AND_LATER
    return limits.get(head_dim, 0)


def shortest_limit(head_dim: int, sms: Iterable[int | None]) -> int:
    """The least of `longest_int8_attention` over several targets."""
    return min((longest_int8_attention(head_dim, sm) for sm in sms), default=0)
