"""Logits per token to tags with places in the text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from trt_int8.runtime.text.labels import Floats
from trt_int8.runtime.text.tokens import Layout

Aggregate = Literal["none", "simple", "first"]
# The tag of tokens that belong to nothing, in the usual B-I-O scheme.
OUTSIDE = "O"


@dataclass(frozen=True)
class Tag:
    """A token or an entity.

    Attributes:
        label: as the model calls it; of an entity without `B-` and `I-`.
        score: probability; of an entity the mean over its tokens, or over its words' first tokens.
        start: its first character in the text.
        end: the one after its last.
        text: the characters between.
    """

    label: str
    score: float
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class _Piece:
    label: str
    score: float
    start: int
    end: int


def find_tags(
    scores: Floats, names: Sequence[str], text: str, layout: Layout, aggregate: Aggregate
) -> list[Tag]:
    """Tags of one text, in its order; what is outside of everything (`O`) is left out.

    Args:
        scores: probabilities [S, N].
        names: N labels.
        text: what was tokenized.
        layout: where its S tokens come from.
        aggregate: `none`: one tag per token. `simple`: neighbours with the same label become one
            entity, unless one begins with `B-`. `first`: the same with whole words, whose label
            is that of their first token (the strategies of transformers' pipeline).
    """
    pieces = list(_pieces(scores, names, (text, layout), words=aggregate == "first"))
    if aggregate != "none":
        pieces = [_joined(group) for group in _groups(pieces)]
    return [
        Tag(piece.label, piece.score, piece.start, piece.end, text[piece.start : piece.end])
        for piece in pieces
        if piece.label != OUTSIDE
    ]


def _pieces(
    scores: Floats, names: Sequence[str], read: tuple[str, Layout], *, words: bool
) -> Iterator[_Piece]:
    """Tokens, or with `words` whole words with the label of their first token."""
    text, layout = read
    best = np.argmax(scores, axis=-1)
    own = [index for index, part in enumerate(layout.parts) if part is not None]
    begins = [index for index in own if not (words and layout.continues(index, text))]
    ends = [*(index - 1 for index in begins[1:]), *own[-1:]]
    for first, last in zip(begins, ends, strict=True):
        label = int(best[first])
        start, end = layout.offsets[first][0], layout.offsets[last][1]
        yield _Piece(names[label], float(scores[first, label]), start, end)


def _groups(pieces: Sequence[_Piece]) -> list[list[_Piece]]:
    groups: list[list[_Piece]] = []
    for piece in pieces:
        begins, kind = _scheme(piece.label)
        if groups and not begins and _scheme(groups[-1][-1].label)[1] == kind:
            groups[-1].append(piece)
        else:
            groups.append([piece])
    return groups


def _scheme(label: str) -> tuple[bool, str]:
    """Whether a label begins an entity, and which: `B-PER` to (True, "PER")."""
    if label.startswith("B-"):
        return True, label[2:]
    return False, label[2:] if label.startswith("I-") else label


def _joined(group: Sequence[_Piece]) -> _Piece:
    score = float(np.mean([piece.score for piece in group]))
    return _Piece(_scheme(group[0].label)[1], score, group[0].start, group[-1].end)
