"""Logits to named scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trt_int8.errors import RequestError
from trt_int8.spec.text import Problem

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Label:
    """A class with its score: a probability, or the bare logit of a regression."""

    name: str
    score: float


def softmax(logits: NDArray[np.floating], axis: int = -1) -> Floats:
    """exp(x - max x) / sum of these, along `axis`, in float64."""
    values = np.asarray(logits, np.float64)
    powers = np.exp(values - values.max(axis=axis, keepdims=True))
    found: Floats = powers / powers.sum(axis=axis, keepdims=True)
    return found


def sigmoid(logits: NDArray[np.floating]) -> Floats:
    """1 / (1 + exp(-x)) in float64, without overflow for any x."""
    values = np.asarray(logits, np.float64)
    small = np.exp(-np.abs(values))
    found: Floats = np.where(values >= 0, 1.0, small) / (1.0 + small)
    return found


def class_scores(logits: NDArray[np.floating], problem: Problem) -> Floats:
    """Scores of logits [..., N]: softmax, sigmoid of each, or the logits themselves."""
    if problem == "single_label":
        return softmax(logits)
    if problem == "multi_label":
        return sigmoid(logits)
    return np.asarray(logits, np.float64)


def label_names(names: Sequence[str], count: int) -> tuple[str, ...]:
    """The names, or `LABEL_0`, … as transformers calls classes without any.

    Raises:
        RequestError: there are names, but not `count`.
    """
    if not names:
        return tuple(f"LABEL_{index}" for index in range(count))
    if len(names) != count:
        raise RequestError(
            f"the model gives {count} logits and has {len(names)} labels",
            wanted="one for each",
            todo="correct id2label in the model's config.json, and build the bundle again",
        )
    return tuple(names)


def ranked(scores: Floats, names: Sequence[str], top_k: int | None = None) -> list[Label]:
    """The `top_k` best labels (None: all), best first; equal ones in the order of the classes.

    Args:
        scores: [N].
        names: N of them.
        top_k: how many; more than N give N.
    """
    order = np.argsort(-scores, kind="stable")[:top_k]
    return [Label(names[index], float(scores[index])) for index in order]


def check_top_k(top_k: int | None) -> None:
    """Refuse numbers of results below 1.

    Raises:
        RequestError: saying so.
    """
    if top_k is not None and top_k < 1:
        raise RequestError(f"top_k is {top_k}", wanted="1 or more", todo="correct it")
