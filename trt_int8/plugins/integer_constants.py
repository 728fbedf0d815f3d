"""Integer constants of the integer-only kernels: made once on the host from the scales.

The forms are those of I-BERT (Kim et al. 2021, "I-BERT: Integer-only BERT Quantization", sections
3.3 to 3.6); "the code" is their release. All is done in exact fractions, so every floor is the true
one. A fraction that stands for an irrational number is its float64 value.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from trt_int8.errors import PluginError

# e^r ~ a r^2 + b r + 1 on (-ln 2, 0]: the coefficients of the code, within 1.92e-3.
_EXP_A: Final = Fraction("0.35815147")
_EXP_B: Final = Fraction("0.96963238") / _EXP_A
_EXP_C: Final = 1 / _EXP_A
_LN2: Final = Fraction(math.log(2.0))
# Beyond e^-21 nothing is left of a 16-bit code (the code's n).
HALVINGS: Final = 30
# An exponential as 16-bit code: [0, 1] over the positive half.
EXP_STEPS: Final = 2**15 - 1
# d // q_ln2 = d * reciprocal >> 40 for every d that comes.
RECIPROCAL_SHIFT: Final = 40

# erf(x) ~ sgn(x) (a (min(|x|, -b) + b)^2 + 1): equation 7 of the paper.
_ERF_A: Final = Fraction("-0.2888")
_ERF_B: Final = Fraction("-1.769")
_SQRT2: Final = Fraction(math.sqrt(2.0))
# The product of input and erf has 31 bits; with up to 19 of the input, 1 is over 2^10 steps of erf.
_GELU_LARGEST_CLAMP: Final = 2**19
# The floor of b / S moves the polynomial by up to S.
_GELU_LARGEST_SCALE: Final = Fraction(1, 2**8)
# Steps of the int8 output that the clamped input covers: past the last code and its rounding.
_OUTPUT_STEPS: Final = 129

# Each y / sqrt(sum y^2) has 30 fractional bits.
NORM_BITS: Final = 30
LARGEST_ROW: Final = 4096
# A beta of 128 output steps times half a unit of such a multiplier: 1/16 of a step.
_LEAST_MULTIPLIER: Final = 2**10


@dataclass(frozen=True)
class Dyadic:
    """multiplier / 2^shift, the form in which a ratio of two scales reaches a kernel."""

    multiplier: int
    shift: int


@dataclass(frozen=True)
class SoftmaxConstants:
    """Integer arguments of `i_softmax`.

    Attributes:
        input_shift: distances from the maximum are shifted right by it, left where negative.
        ln2: floor(ln 2 / S) with S the scale after that shift.
        reciprocal: 2^40 // ln2 + 1, which divides by `ln2`.
        linear, constant: b and c of the polynomial (r + b) r + c.
        to_codes: from the polynomial to 16-bit codes.
    """

    input_shift: int
    ln2: int
    reciprocal: int
    linear: int
    constant: int
    to_codes: Dyadic

    @property
    def limit(self) -> int:
        """Largest distance that is told apart."""
        return HALVINGS * self.ln2


@dataclass(frozen=True)
class GeluConstants:
    """Integer arguments of `i_gelu`.

    Attributes:
        clamp: inputs are clamped to -clamp .. clamp, which changes no output code.
        bound: -floor(b / S'), where erf is flat; S' = S / sqrt 2.
        constant: floor(c / (a S'^2)), negative; up to 63 bits.
        shift: erf is shifted right by it so that the product with the input fits 32 bits.
        one: floor(1 / S_erf), negative; S_erf = a S'^2 2^shift.
        to_codes: from the product to int8 codes; negative, as S_erf is.
    """

    clamp: int
    bound: int
    constant: int
    shift: int
    one: int
    to_codes: Dyadic


@dataclass(frozen=True)
class LayerNormConstants:
    """Integer arguments and inputs of `i_layernorm`.

    Attributes:
        multipliers: int32, one per channel; over 2^shift they turn 30-bit fractions of the row's
            length into int8 codes.
        shift: the same for all channels; the largest one up to 62 at which no multiplier has more
            than 31 bits, and no product with a fraction and a bias more than 62.
        biases: floor(beta / gamma / (sqrt C / 2^30)), one per channel; int64.
    """

    multipliers: tuple[int, ...]
    shift: int
    biases: tuple[int, ...]


def dyadic(ratio: Fraction) -> Dyadic:
    """The ratio with 31 bits (HAWQ-V3, Yao et al. 2021; I-BERT's fixedpoint_mul).

    Returns:
        2^30 <= |multiplier| < 2^31, off by at most 2^-31 of the ratio; less where the ratio is
        below 2^-32, as the shift ends at 62.

    Raises:
        PluginError: the ratio is over 2^30.
    """
    size = abs(ratio) or Fraction(1)
    # The exponent e with 2^(e-1) <= size < 2^e, exactly.
    exponent = size.numerator.bit_length() - size.denominator.bit_length()
    exponent += size >= Fraction(2) ** exponent
    shift = min(31 - exponent, 62)
    multiplier = round(ratio * Fraction(2) ** shift)
    if abs(multiplier) == 2**31:
        multiplier, shift = multiplier // 2, shift - 1
    if shift < 1:
        raise PluginError(
            f"a ratio of two scales is {float(ratio):.3g}",
            wanted="at most 2^30",
            todo="calibrate again: no tensor needs such a scale",
        )
    return Dyadic(multiplier, shift)


def softmax_constants(scale: float) -> SoftmaxConstants:
    """Constants for scores of one scale: the finest shift at which 31 bits are enough.

    At input_shift 0 (scales from 3.61e-5 to 7.21e-5) these are I-BERT's own integers. A coarser
    score is shifted left, which takes away the rounding of ln 2, a finer one right.

    Raises:
        PluginError: the scale is no positive number, or needs a shift of more than 31 bits.
    """
    exact = _fraction("i_softmax", scale)
    # c / S^2 < 2^31, so the polynomial, which is largest at 0, has 31 bits.
    shift = 0
    while _EXP_C / (exact * Fraction(2) ** shift) ** 2 >= 2**31:
        shift += 1
    while _EXP_C / (exact * Fraction(2) ** (shift - 1)) ** 2 < 2**31:
        shift -= 1
    if abs(shift) > 31:
        raise PluginError(
            f"i_softmax got scores of scale {scale}",
            wanted="1.7e-14 to 1.5e5",
            todo="calibrate again: no attention has such scores",
        )
    exact *= Fraction(2) ** shift
    ln2 = math.floor(_LN2 / exact)
    return SoftmaxConstants(
        input_shift=shift,
        ln2=ln2,
        reciprocal=2**RECIPROCAL_SHIFT // ln2 + 1,
        linear=math.floor(_EXP_B / exact),
        constant=math.floor(_EXP_C / exact**2),
        to_codes=dyadic(_EXP_A * exact**2 * EXP_STEPS),
    )


def gelu_constants(scale: float, output_scale: float) -> GeluConstants:
    """Constants for an input and an output scale: the smallest shift at which 31 bits are enough.

    Raises:
        PluginError: a scale is no positive number, or the input scale is outside of the range in
            which 32 bits hold both the range and the steps; the message names it.
    """
    exact, output = _fraction("i_gelu", scale), _fraction("i_gelu", output_scale)
    bound = -math.floor(_ERF_B * _SQRT2 / exact)
    unit = _ERF_A * exact**2 / 2
    constant = math.floor(1 / unit)
    clamp = max(bound, math.ceil(_OUTPUT_STEPS * output / exact))
    if clamp > _GELU_LARGEST_CLAMP or exact > _GELU_LARGEST_SCALE:
        least = max(-_ERF_B * _SQRT2, _OUTPUT_STEPS * output) / _GELU_LARGEST_CLAMP
        raise PluginError(
            f"i_gelu got inputs of scale {scale} and outputs of scale {output_scale}",
            wanted=f"an input scale from {float(least):.4g} to 1/256",
            todo="give it the 32-bit accumulator (scale of the input times that of the weight), "
            "or use the GELU with float arithmetic",
        )
    shift = 0
    while clamp * _largest_sum(constant, unit, shift) >= 2**31:
        shift += 1
    one = math.floor(1 / (unit * 2**shift))
    to_codes = dyadic(exact * unit * 2**shift / 2 / output)
    return GeluConstants(clamp, bound, constant, shift, one, to_codes)


def layernorm_constants(
    gamma: tuple[float, ...], beta: tuple[float, ...], output_scale: float
) -> LayerNormConstants:
    """Constants for the weights of a LayerNorm without epsilon; lengths C.

    Raises:
        PluginError: C is not 1..4096, or the lengths differ; a weight is NaN or infinite; a gamma
            is 0, or so far below the largest, its beta or the output's step that its multiplier
            has too few bits. The message names the channels.
    """
    size = len(gamma)
    if not 1 <= size <= LARGEST_ROW or len(beta) != size:
        raise PluginError(
            f"i_layernorm got {size} values of gamma and {len(beta)} of beta",
            wanted=f"as many of each, 1 to {LARGEST_ROW}",
            todo="give the weights of one LayerNorm",
        )
    _refuse("a gamma or beta that is NaN or infinite", "finite weights", _not_finite(gamma, beta))
    gammas, betas = [Fraction(g) for g in gamma], [Fraction(b) for b in beta]
    unit = Fraction(math.sqrt(size)) / 2**NORM_BITS
    biases = tuple(math.floor(b / g / unit) if g else 0 for b, g in zip(betas, gammas, strict=True))
    ratios = [value * unit / _fraction("i_layernorm", output_scale) for value in gammas]
    shift = dyadic(max(ratios, key=abs)).shift
    # |y| / root / 2^k <= 1 + 2^-15, as root has 16 bits where k > 0; rounding needs the 63rd bit.
    sums = [2**NORM_BITS + 2**16 + abs(bias) for bias in biases]
    pairs = list(zip(sums, map(abs, ratios), strict=True))
    while shift > 0 and any(s * (r * 2**shift + 1) >= 2**62 for s, r in pairs):
        shift -= 1
    multipliers = tuple(round(ratio * 2**shift) for ratio in ratios)
    weak = [c for c, value in enumerate(multipliers) if abs(value) < _LEAST_MULTIPLIER]
    _refuse("a gamma that is 0, or nearly so", "others, as beta is divided by gamma", weak)
    return LayerNormConstants(multipliers, shift, biases)


def _largest_sum(constant: int, unit: Fraction, shift: int) -> int:
    """Largest |q_erf + q_1| over all inputs, with its floor."""
    one: int = math.floor(1 / (unit * 2**shift))
    return 1 - (constant >> shift) - one


def _fraction(kernel: str, scale: float) -> Fraction:
    if not (math.isfinite(scale) and scale > 0):
        raise PluginError(
            f"{kernel} got the scale {scale}",
            wanted="a finite number > 0",
            todo="calibrate again, or leave this node out",
        )
    return Fraction(scale)


def _not_finite(*weights: tuple[float, ...]) -> list[int]:
    channels = zip(*weights, strict=True)
    return [c for c, values in enumerate(channels) if not all(map(math.isfinite, values))]


def _refuse(came: str, wanted: str, channels: list[int]) -> None:
    if channels:
        raise PluginError(
            f"i_layernorm got {came} in channels {channels[:8]} ({len(channels)} in all)",
            wanted=wanted,
            todo="use the LayerNorm with float statistics for this layer",
        )
