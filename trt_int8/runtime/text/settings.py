"""What a model does with text, told from its outputs and the configuration beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trt_int8.errors import BundleError, first_line
from trt_int8.runtime.tensors import Signature, TensorInfo
from trt_int8.runtime.text.tokens import CONFIGURED_FILE, FAST_FILE
from trt_int8.spec.text import Problem, Side, Task, TextSettings

EMBEDDING_OUTPUT = "sentence_embedding"
START_OUTPUT, END_OUTPUT, LOGITS_OUTPUT = "start_logits", "end_logits", "logits"
CONFIG_FILE, TOKENIZER_CONFIG_FILE = "config.json", CONFIGURED_FILE
# A dynamic axis without a profile has this size.
_UNLIMITED = 2**31 - 1
# Heads of transformers by the end of the class's name, and the axes of their `logits`.
_HEADS: dict[str, tuple[Task, int]] = {
    "ForSequenceClassification": ("classification", 2),
    "ForTokenClassification": ("token-classification", 3),
}
_PROBLEMS: dict[str, Problem] = {
    "regression": "regression",
    "multi_label_classification": "multi_label",
    "single_label_classification": "single_label",
}


def task_of(outputs: Sequence[TensorInfo], config: Mapping[str, Any]) -> Task:
    """The task, where outputs and configuration agree on one; else `features`.

    Args:
        outputs: of the graph.
        config: of the model, as in transformers' `config.json`; empty if unknown.
    """
    by_name = {output.name: output for output in outputs}
    if EMBEDDING_OUTPUT in by_name and len(by_name[EMBEDDING_OUTPUT].axes) == 2:
        return "embedding"
    if {START_OUTPUT, END_OUTPUT} <= set(by_name):
        return "question-answering"
    logits = by_name.get(LOGITS_OUTPUT)
    architecture = architecture_of(config)
    for ending, (task, axes) in _HEADS.items():
        if architecture.endswith(ending) and logits is not None and len(logits.axes) == axes:
            return task
    return "features"


def architecture_of(config: Mapping[str, Any]) -> str:
    """The name of the model's class; empty if the configuration has none."""
    names = config.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else ""


def model_settings(outputs: Sequence[TensorInfo], config: Mapping[str, Any]) -> TextSettings:
    """Task, labels and problem of a model; the rest as the defaults are.

    Args:
        outputs: of the graph.
        config: of the model, as in transformers' `config.json`; empty if unknown.
    """
    task = task_of(outputs, config)
    if task not in ("classification", "token-classification"):
        return TextSettings(task=task)
    labels = _labels(config)
    size = next(output.axes[-1] for output in outputs if output.name == LOGITS_OUTPUT)
    count = size if isinstance(size, int) else len(labels) or config.get("num_labels")
    if isinstance(size, int) and len(labels) != size:
        labels = ()
    problem = _PROBLEMS.get(str(config.get("problem_type")), "single_label")
    # As transformers' pipelines: tokens have one tag each; one logit is a yes or no of its own.
    if task == "token-classification":
        problem = "single_label"
    elif count == 1 and problem != "regression":
        problem = "multi_label"
    return TextSettings(task=task, labels=labels, problem=problem)


def _labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Names in the order of the logits; none unless there is one for each number from 0."""
    named = config.get("id2label")
    if not isinstance(named, Mapping):
        return ()
    by_number = {str(number): str(name) for number, name in named.items()}
    wanted = [str(number) for number in range(len(by_number))]
    return tuple(by_number[number] for number in wanted) if set(wanted) == set(by_number) else ()


def longest_of(signature: Signature) -> int | None:
    """Tokens of the longest request that the profiles take; None if they do not say."""
    return least(
        *(
            given.largest[signature.token_axes[given.name]]
            for given in signature.inputs
            if given.name in signature.token_axes and given.largest
        )
    )


def least(*limits: object) -> int | None:
    """The least of those that are limits: transformers says 10^30 where there is none."""
    numbers = [limit for limit in limits if isinstance(limit, (int, float))]
    given = [int(number) for number in numbers if 0 < number < _UNLIMITED]
    return min(given) if given else None


def read_settings(folder: Path, signature: Signature) -> TextSettings:
    """Settings for a bundle that has none, from a tokenizer's folder.

    Args:
        folder: with the tokenizer's files and, if it is there, the model's `config.json`.
        signature: of the bundle's graph.

    Raises:
        BundleError: a file is damaged.
    """
    config = read_json(folder / CONFIG_FILE)
    given = read_json(folder / TOKENIZER_CONFIG_FILE)
    tokenizer = read_json(folder / FAST_FILE)
    padding = tokenizer.get("padding") or {}
    return model_settings(signature.outputs, config).model_copy(
        update={
            "pad_token_id": _padding_id(given, tokenizer),
            "pad_token_type_id": int(padding.get("pad_type_id", 0)),
            "padding_side": _side(given.get("padding_side")),
            "truncation_side": _side(given.get("truncation_side")),
            "max_tokens": least(given.get("model_max_length"), longest_of(signature)),
        }
    )


def _padding_id(given: Mapping[str, Any], tokenizer: Mapping[str, Any]) -> int:
    """Number of the padding token; 0 without one."""
    token = given.get("pad_token")
    content = token.get("content") if isinstance(token, Mapping) else token
    for added in tokenizer.get("added_tokens") or ():
        if content is not None and added.get("content") == content:
            return int(added["id"])
    return int((tokenizer.get("padding") or {}).get("pad_id", 0))


def _side(value: object) -> Side:
    return "left" if value == "left" else "right"


def read_json(path: Path) -> dict[str, Any]:
    """An object of a JSON file; empty if there is no such file.

    Raises:
        BundleError: it is damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise _damaged(path, first_line(error)) from error
    if not isinstance(found, dict):
        raise _damaged(path, "it is no object")
    return found


def _damaged(path: Path, why: str) -> BundleError:
    return BundleError(
        f"{str(path)!r} cannot be read ({why})",
        wanted="intact files of a tokenizer",
        todo="copy them again, or pass another tokenizer=FOLDER",
    )
