"""What every peer is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from trt_int8.calibrate.texts import (
    TokenArrays,
    builtin_texts,
    padded_batches,
    read_texts,
    split,
    tokenize,
)
from trt_int8.graph.export import export_float
from trt_int8.model.huggingface import TextModel, load_text_model
from trt_int8.model.source import resolve_source

# As many samples as NNCF takes by default; the same texts for every peer that calibrates.
CALIBRATION_TEXTS = 300
MAX_TOKENS = 128
# Samples and tokens of the requests that are timed.
SHAPES = ((8, 128), (1, 32), (1, 128))

Run = Callable[[TokenArrays], NDArray[np.float32]]


@dataclass(frozen=True)
class Prepared:
    """A peer that is ready to be timed.

    Attributes:
        run: int64 [B, S] per input name to embeddings float32 [B, H].
        settings: what was set, for the record.
        compiled: gives OpenVINO's compiled model for feeds, if it is one: its graph can be listed.
        close: frees it.
    """

    run: Run
    settings: Mapping[str, Any]
    compiled: Callable[[TokenArrays], Any] | None = None
    close: Callable[[], None] = field(default=lambda: None)


@dataclass(frozen=True)
class Context:
    """The model, in every form that a peer may start from.

    Attributes:
        model_name: as `--model` of the build takes it.
        bundle: our bundle of it.
        folder: for files that peers write; what is there already is taken as it is.
        threads: for every peer.
    """

    model_name: str
    bundle: Path
    folder: Path
    threads: int

    @cached_property
    def model(self) -> TextModel:
        """The PyTorch model, float32; a peer that changes modules must copy it."""
        return load_text_model(resolve_source(self.model_name))

    @cached_property
    def float_onnx(self) -> Path:
        """The model in float32, exported as the build does before it quantizes."""
        path = self.folder / "model.fp32.onnx"
        if not path.exists():
            onnx.save(export_float(self.model), str(path))
        return path

    @cached_property
    def calibration(self) -> list[TokenArrays]:
        """Real sentences, int64 [1, S] per input name, none of which the accuracy is told by."""
        used, _ = split(read_texts(builtin_texts()), CALIBRATION_TEXTS)
        return tokenize(self.model.tokenizer, used, self.model.input_names, MAX_TOKENS)

    def padded_calibration(self, batch: int, tokens: int) -> list[TokenArrays]:
        """The same sentences in whole batches, int64 [batch, tokens] per input name."""
        padding = {"input_ids": self.model.tokenizer.pad_token_id or 0}
        batches = padded_batches(self.calibration, batch, tokens, padding)
        return [each for each in batches if len(each["input_ids"]) == batch]

    def full_feeds(self, batch: int, tokens: int) -> TokenArrays:
        """Sentences chained until every token is real: int64 [B, S] per input name."""
        own = [item[0] for item in read_texts(builtin_texts()).items]
        longest = [
            " ".join(own[(7 * row + k) % len(own)] for k in range(40)) for row in range(batch)
        ]
        encoded = self.model.tokenizer(
            longest, truncation=True, max_length=tokens, return_tensors="np"
        )
        feeds = {name: np.asarray(encoded[name], np.int64) for name in self.model.input_names}
        if feeds["attention_mask"].shape != (batch, tokens) or not feeds["attention_mask"].all():
            raise ValueError(f"the texts do not fill {batch} x {tokens} tokens")
        return feeds
