"""What each task makes of a model's outputs for one text."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trt_int8.errors import RequestError
from trt_int8.runtime.backend import Outputs
from trt_int8.runtime.tensors import Signature, TensorInfo
from trt_int8.runtime.text.answers import AnswerOptions, Span, Window, find_answers
from trt_int8.runtime.text.labels import (
    Label,
    check_top_k,
    class_scores,
    label_names,
    ranked,
    softmax,
)
from trt_int8.runtime.text.pooling import normalized, pool
from trt_int8.runtime.text.settings import (
    EMBEDDING_OUTPUT,
    END_OUTPUT,
    LOGITS_OUTPUT,
    START_OUTPUT,
)
from trt_int8.runtime.text.stream import Job
from trt_int8.runtime.text.tags import Aggregate, Tag, find_tags
from trt_int8.runtime.text.tokens import Encoded, Texts, TextTokenizer
from trt_int8.spec.text import Pooling, Task, TextSettings

Vector = NDArray[np.float32]
CALLS: dict[Task, str] = {
    "embedding": "embed",
    "features": "embed",
    "classification": "classify",
    "token-classification": "tag",
    "question-answering": "answer",
}


class Jobs:
    """Makes the jobs that a model can do."""

    def __init__(
        self, signature: Signature, settings: TextSettings, tokenizer: TextTokenizer
    ) -> None:
        """Remember what the model gives and what it means."""
        self._outputs = {output.name: output for output in signature.outputs}
        self._settings, self._tokenizer = settings, tokenizer

    def embed(self, *, normalize: bool | None, pooling: Pooling | None) -> Job[Vector]:
        """One vector [H] per text; None: as the settings have it.

        Raises:
            RequestError: the model gives none.
        """
        self._check("embed")
        output = self.vector_output()
        scaled = self._settings.normalize if normalize is None else normalize
        how = pooling or self._settings.pooling

        def read(_texts: Texts, _parts: list[Encoded], outputs: list[Outputs]) -> Vector:
            found = np.asarray(outputs[0][output.name])
            if len(output.axes) == 3:
                found = pool(found[None], np.ones((1, len(found)), np.int64), how)[0]
            return normalized(found) if scaled else found.astype(np.float32)

        return Job(read)

    def vector_output(self) -> TensorInfo:
        """The output [B, H] with a vector per text, or the first [B, S, H] with one per token.

        Raises:
            RequestError: there is none.
        """
        if EMBEDDING_OUTPUT in self._outputs:
            return self._outputs[EMBEDDING_OUTPUT]
        for output in self._outputs.values():
            if len(output.axes) == 3 and output.dtype.startswith("float"):
                return output
        raise RequestError(
            f"the model gives {', '.join(map(str, self._outputs.values()))}",
            wanted=f"{EMBEDDING_OUTPUT}, or hidden states of three axes",
            todo="use Session, which gives the outputs as they are",
        )

    def classify(self, top_k: int | None) -> Job[list[Label]]:
        """The best labels of a text.

        Raises:
            RequestError: the model does not classify, or `top_k` is below 1.
        """
        self._check("classify")
        check_top_k(top_k)
        labels, problem = self._settings.labels, self._settings.problem

        def read(_texts: Texts, _parts: list[Encoded], outputs: list[Outputs]) -> list[Label]:
            scores = class_scores(outputs[0][LOGITS_OUTPUT], problem)
            return ranked(scores, label_names(labels, len(scores)), top_k)

        return Job(read)

    def tag(self, aggregate: Aggregate) -> Job[list[Tag]]:
        """The tags of a text.

        Raises:
            RequestError: the model does not tag tokens, or `aggregate` is unknown.
        """
        self._check("tag")
        if aggregate not in ("none", "simple", "first"):
            raise RequestError(
                f"aggregate is {aggregate!r}", wanted="none, simple or first", todo="correct it"
            )
        labels = self._settings.labels

        def read(texts: Texts, parts: list[Encoded], outputs: list[Outputs]) -> list[Tag]:
            scores = softmax(outputs[0][LOGITS_OUTPUT])
            names = label_names(labels, scores.shape[-1])
            return find_tags(scores, names, texts[0], parts[0].layout, aggregate)

        return Job(read, pairs=False)

    def answer(self, options: AnswerOptions) -> Job[list[Span]]:
        """The best answers to a question in its context; texts are pairs of these.

        Raises:
            RequestError: the model does not answer, or an option is out of range.
        """
        self._check("answer")
        options.check()

        def split(texts: Texts) -> list[Encoded]:
            if len(texts) != 2:
                raise RequestError(
                    "the question has no context",
                    wanted="a pair of both",
                    todo="pass (question, context)",
                )
            return self._tokenizer.windows(*texts, options.stride)

        def read(texts: Texts, parts: list[Encoded], outputs: list[Outputs]) -> list[Span]:
            windows = [
                Window(given[START_OUTPUT], given[END_OUTPUT], part.layout)
                for part, given in zip(parts, outputs, strict=True)
            ]
            return find_answers(windows, texts[1], options)

        return Job(read, split=split)

    def _check(self, call: str) -> None:
        fitting = CALLS[self._settings.task]
        if call != fitting:
            raise RequestError(
                f"{call}() on a model for {self._settings.task}",
                wanted=f"a model that can {call}",
                todo=f"call {fitting}()",
            )
