"""How a bundle's model reads text and what its outputs mean."""

from __future__ import annotations

from typing import Literal

from trt_int8.spec.base import Frozen

Task = Literal[
    "embedding", "classification", "token-classification", "question-answering", "features"
]
Problem = Literal["single_label", "multi_label", "regression"]
Side = Literal["left", "right"]
Pooling = Literal["mean", "cls"]
TOKENIZER_FOLDER = "tokenizer"


class TextSettings(Frozen):
    """What the runtime needs beside the tokenizer's files to answer a text.

    Attributes:
        task: `features` where the outputs are hidden states without a head.
        labels: names of the classes, in the order of the logits; empty if the model has none.
        problem: how logits of `classification` become scores (transformers' `problem_type`).
        pad_token_id: value of `input_ids` where there is no token.
        pad_token_type_id: value of `token_type_ids` there.
        padding_side: where tokens are added to reach the length of a batch.
        truncation_side: where tokens are left out of a text that is too long.
        max_tokens: longest text in tokens, special ones included; None if unlimited.
        pooling: how hidden states of `features` become one vector.
        normalize: divide that vector by its L2 norm.
    """

    task: Task
    labels: tuple[str, ...] = ()
    problem: Problem = "single_label"
    pad_token_id: int = 0
    pad_token_type_id: int = 0
    padding_side: Side = "right"
    truncation_side: Side = "right"
    max_tokens: int | None = None
    pooling: Pooling = "mean"
    normalize: bool = False
