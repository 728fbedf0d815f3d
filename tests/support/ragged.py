"""Tokenized texts of many lengths, and a tiny BERT to run them through."""

from __future__ import annotations

import numpy as np

from tests.support.tiny_transformers import VOCABULARY, annotated, text_model
from trt_int8.annotate.torch_model import AnnotatedModel
from trt_int8.calibrate.texts import TokenArrays, batches_of_one_length, padded_batches
from trt_int8.calibrate.torch_statistics import TorchTensors
from trt_int8.model.huggingface import TextModel

# Twice 7 tokens; H is 64, D is 32.
LENGTHS = (7, 2, 11, 7, 1, 4)


def ragged_tokens(lengths: tuple[int, ...] = LENGTHS, seed: int = 0) -> list[TokenArrays]:
    """One text per length: int64 [1, S]."""
    generator = np.random.default_rng(seed)
    return [
        {
            "input_ids": generator.integers(3, VOCABULARY, (1, length)),
            "attention_mask": np.ones((1, length), np.int64),
        }
        for length in lengths
    ]


def numbered(batches: list[TokenArrays]) -> tuple[tuple[int, TokenArrays], ...]:
    """Each batch with its number in the data set."""
    return tuple(enumerate(batches))


def same_length(lengths: tuple[int, ...] = LENGTHS) -> tuple[tuple[int, TokenArrays], ...]:
    """Batches without padding."""
    return numbered(batches_of_one_length(ragged_tokens(lengths), 2))


def padded(length: int = 13) -> tuple[tuple[int, TokenArrays], ...]:
    """The same texts, padded with a real token, so that only the mask tells it from text."""
    return numbered(padded_batches(ragged_tokens(), 4, length, {"input_ids": 5}))


def tiny_tensors(family: str = "Bert") -> tuple[TorchTensors, TextModel, AnnotatedModel]:
    """The quantized tensors of a tiny model, with the model and its quantizers."""
    model = text_model(family)
    sites = annotated(model)
    return TorchTensors(model.wrapper, model.input_names, sites), model, sites
