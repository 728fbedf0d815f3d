"""What a sentence-transformers folder asks for beside the model itself.

Its files: https://sbert.net/docs/package_reference/sentence_transformer/models.html
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trt_int8 import optional
from trt_int8.errors import ModelError, TrtInt8Error
from trt_int8.model.heads import sentence_head_of
from trt_int8.runtime.text.settings import read_json
from trt_int8.spec.text import Pooling

MODULES_FILE, SENTENCE_FILE = "modules.json", "sentence_bert_config.json"


@dataclass(frozen=True)
class SentenceSettings:
    """How sentence-transformers would read a text and pool its tokens.

    Attributes:
        max_tokens: longest text; it counts instead of the tokenizer's own limit. None: it does not
            say.
        lower_case: texts become lower case first.
        pooling: of an ONNX file that ends with hidden states.
        normalize: its vectors get unit length.
        note: what cannot be done so, for the user; empty if nothing.
    """

    max_tokens: int | None = None
    lower_case: bool = False
    pooling: Pooling = "mean"
    normalize: bool = False
    note: str = ""


def sentence_settings(folder: Path) -> SentenceSettings:
    """Of a folder that may or may not be one of sentence-transformers."""
    if not (folder / MODULES_FILE).is_file():
        return SentenceSettings()
    limits = sentence_limits(folder / SENTENCE_FILE)
    try:
        head = sentence_head_of(folder)
    except ModelError as error:
        note = f"embeddings of hidden states will be their mean: {error.came}"
        return replace(limits, note=note)
    if head is None:
        return limits
    return replace(limits, pooling=head.pooling, normalize=head.normalize)


def sentence_limits(file: Path) -> SentenceSettings:
    """Of `sentence_bert_config.json` alone; a damaged file, or none, sets nothing."""
    try:
        given = read_json(file)
    except TrtInt8Error:
        return SentenceSettings()
    longest = given.get("max_seq_length")
    return SentenceSettings(
        max_tokens=longest if isinstance(longest, int) and longest > 0 else None,
        lower_case=given.get("do_lower_case") is True,
    )


def add_lower_case(tokenizer: Any) -> None:
    """Let a tokenizer of transformers make lower case first, as sentence-transformers does."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return
    normalizers = optional.load("tokenizers").normalizers
    old = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *old])
