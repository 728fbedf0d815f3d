"""Softmax, GELU and LayerNorm of I-BERT in Python's own integers, straight from the formulas.

Nothing is shared with the package: constants come from decimals of 60 digits, shifts from trying
them in turn, the requantization from HAWQ-V3's frexp.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import ROUND_FLOOR, ROUND_HALF_EVEN, Decimal, localcontext

DIGITS = 60


def floor_of(value: Decimal) -> int:
    return int(value.to_integral_value(ROUND_FLOOR))


def nearest(value: int, power: int) -> int:
    """Value / 2^power, halves to even."""
    with localcontext() as context:
        context.prec = 4 * DIGITS
        return int((Decimal(value) / Decimal(2) ** power).to_integral_value(ROUND_HALF_EVEN))


def requantization(ratio: Decimal) -> tuple[int, int]:
    """Multiplier of 31 bits and the power of two under it, at most 62."""
    power = 0
    while abs(ratio) < 2**30 and power < 62:
        ratio, power = ratio * 2, power + 1
    return int(ratio.to_integral_value(ROUND_HALF_EVEN)), power


def saturated(code: int) -> int:
    return max(-128, min(127, code))


def softmax(scores: Sequence[int], scale: float, *, signed: bool) -> list[int]:
    with localcontext() as context:
        context.prec = DIGITS
        a, b, c = Decimal("0.35815147"), Decimal("0.96963238"), Decimal(1)
        shift = next(
            n
            for n in range(-31, 32)
            if floor_of(c / a / (Decimal(scale) * Decimal(2) ** n) ** 2).bit_length() <= 31
        )
        step = Decimal(scale) * Decimal(2) ** shift
        ln2 = floor_of(Decimal(2).ln() / step)
        linear, constant = floor_of(b / a / step), floor_of(c / a / step**2)
        multiplier, power = requantization(a * step * step * 32767)
    codes = []
    for score in scores:
        q = score - max(scores)
        q = -(-q >> shift) if shift >= 0 else q << -shift
        q = max(q, -30 * ln2)
        z = -q // ln2
        r = q + z * ln2
        codes.append(nearest((r * (r + linear) + constant) * multiplier, power + z))
    factor = 2**32 // sum(codes)
    if signed:
        return [(code * factor * 127 * 2 + 2**32) // 2**33 for code in codes]
    return [code * factor // 2**24 for code in codes]


def gelu(values: Sequence[int], scale: float, output_scale: float) -> list[int]:
    with localcontext() as context:
        context.prec = DIGITS
        a, b, c = Decimal("-0.2888"), Decimal("-1.769"), Decimal(1)
        step = Decimal(scale) / Decimal(2).sqrt()
        q_b, q_c = floor_of(b / step), floor_of(c / a / step**2)
        most = max(-q_b, math.ceil(129 * Decimal(output_scale) / Decimal(scale)))
        shift, one = next(
            (n, one)
            for n in range(64)
            for one in [floor_of(1 / (a * step**2 * 2**n))]
            if (most * (1 - (q_c >> n) - one)).bit_length() <= 31
        )
        multiplier, power = requantization(
            -Decimal(scale) * a * step**2 * 2**shift / 2 / Decimal(output_scale)
        )
    found = []
    for value in values:
        q = max(-most, min(most, value))
        sign = (q > 0) - (q < 0)
        erf = (sign * ((min(abs(q), -q_b) + q_b) ** 2 + q_c)) >> shift
        found.append(saturated(nearest(-q * (erf + one) * multiplier, power)))
    return found


def centred(values: Sequence[int]) -> list[int]:
    """Each value minus the rounded mean."""
    with localcontext() as context:
        context.prec = DIGITS
        held = [max(-(2**24), min(2**24, value)) for value in values]
        mean = int((Decimal(sum(held)) / len(held)).to_integral_value(ROUND_HALF_EVEN))
    return [value - mean for value in held]


def normalised(values: Sequence[int]) -> list[int]:
    """30-bit fractions of the row's length, with the row's own shift."""
    y = centred(values)
    spread = sum(value * value for value in y)
    k = next(k for k in range(64) if spread >> (2 * k) < 2**32)
    root = math.isqrt(spread >> (2 * k))
    factor = 2**31 // root if root else 0
    return [value * factor // 2 ** (k + 1) for value in y]


def published_normalised(values: Sequence[int]) -> list[int]:
    """The same as the paper's release has it: each y is shifted before it is squared."""
    y = centred(values)
    k = next(k for k in range(64) if sum((value >> k) ** 2 for value in y) < 2**32)
    root = math.isqrt(sum((value >> k) ** 2 for value in y)) << k
    factor = 2**31 // root
    return [value * factor // 2 for value in y]


def layernorm(
    values: Sequence[int], gamma: Sequence[float], beta: Sequence[float], output_scale: float
) -> list[int]:
    with localcontext() as context:
        context.prec = DIGITS
        unit = Decimal(len(gamma)).sqrt() / 2**30
        pairs = zip(gamma, beta, strict=True)
        biases = [floor_of(Decimal(b) / Decimal(g) / unit) for g, b in pairs]
        ratios = [Decimal(g) * unit / Decimal(output_scale) for g in gamma]
        # The sum's own room: 2^30, and 2^16 for a root that was rounded down.
        power = next(
            power
            for power in range(62, 0, -1)
            if max(abs(ratio) for ratio in ratios) * 2**power < 2**31 - Decimal("0.5")
            and all(
                (2**30 + 2**16 + abs(b)) * (abs(ratio) * 2**power + 1) < 2**62
                for ratio, b in zip(ratios, biases, strict=True)
            )
        )
        multipliers = [
            int((ratio * 2**power).to_integral_value(ROUND_HALF_EVEN)) for ratio in ratios
        ]
    fractions = normalised(values)
    return [
        saturated(nearest((t + b) * m, power))
        for t, b, m in zip(fractions, biases, multipliers, strict=True)
    ]
