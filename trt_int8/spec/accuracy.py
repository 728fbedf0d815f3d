"""How far the twins moved from the float model, and from each other."""

from __future__ import annotations

from trt_int8.spec.base import Frozen


class OutputError(Frozen):
    """One output of one pair of models over all held-out texts.

    Attributes:
        output: name of the output.
        max_abs: largest |difference|.
        mean_abs: mean |difference|.
        cosine_mean: mean over texts of the cosine between the two outputs of one text.
        cosine_min: the worst text.
        sqnr_db: signal to noise over all values, in dB; +inf if equal.
    """

    output: str
    max_abs: float
    mean_abs: float
    cosine_mean: float
    cosine_min: float
    sqnr_db: float


class PairAccuracy(Frozen):
    """`measured` compared with `reference` (`fp32`, `fp16`, `int8`)."""

    reference: str
    measured: str
    outputs: tuple[OutputError, ...]


class AccuracyReport(Frozen):
    """All pairs, measured with ONNX Runtime on the CPU.

    Attributes:
        primary_output: the output that the policy looks at.
        samples: held-out texts.
        pairs: INT8 and FP16 against FP32, INT8 against FP16.
        cosines: per held-out text, INT8 against FP16 on the primary output.
    """

    primary_output: str
    samples: int
    pairs: tuple[PairAccuracy, ...]
    cosines: tuple[float, ...]

    def of(self, measured: str, reference: str) -> OutputError:
        """Errors of the primary output for one pair."""
        pair = next(p for p in self.pairs if (p.measured, p.reference) == (measured, reference))
        return next(o for o in pair.outputs if o.output == self.primary_output)
