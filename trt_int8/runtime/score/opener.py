"""What to open, as it is sent to another machine."""

from __future__ import annotations

from dataclasses import dataclass

from trt_int8.runtime.score.answers import Scorer
from trt_int8.spec.build import Precision


@dataclass(frozen=True)
class BundleScorer:
    """Opens a bundle; can be sent to another machine.

    Attributes:
        bundle: its folder there.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        workers: batches that run at once.
        precision: of the model.
        tokenizer: folder to use instead of the bundle's own.
        max_batch_tokens: most samples times padded tokens of a batch; None for the default.
        truncate: cut texts that are too long; else they are faults.
        arrays: rows are arrays, not texts.
        sharing: sessions on one machine; on a CPU each takes its share of the cores.
    """

    bundle: str
    device: str = "auto"
    workers: int = 1
    precision: Precision = "int8"
    tokenizer: str | None = None
    max_batch_tokens: int | None = None
    truncate: bool = True
    arrays: bool = False
    sharing: int = 1

    def __call__(self) -> Scorer:
        """Open it.

        Raises:
            BundleError: the bundle, or its tokenizer, is missing or damaged.
            DeviceError: the device cannot run it.
            RequestError: the model reads something else than text, and rows are texts.
        """
        # Imported late: to read and compare data needs no runtime.
        from trt_int8.runtime.score.scorer import open_scorer

        return open_scorer(self)
