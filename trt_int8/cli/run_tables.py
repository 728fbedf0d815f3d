"""What `trt-int8 run` prints for people."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trt_int8.runtime.text.answers import Span
from trt_int8.runtime.text.items import Item
from trt_int8.runtime.text.labels import Label
from trt_int8.runtime.text.session import TextSession
from trt_int8.runtime.text.tags import Tag

_BAR = 24
_TEXT = 48
_MOST_COMPARED = 8
_FIRST_VALUES = 3
# Characters shown of a context before the first and after the last answer.
_AROUND = 120
_COLOURS = ("green", "cyan", "magenta", "yellow", "blue", "red")


def print_results(
    console: Console, session: TextSession, items: Sequence[Item], values: Sequence[Any]
) -> None:
    """Tables, bars and colours, as the task asks for.

    Args:
        console: where to print.
        session: that gave the values.
        items: the texts.
        values: the result of each.
    """
    printers: dict[str, Callable[[], None]] = {
        "classification": lambda: _print_labels(
            console, items, values, bars=session.settings.problem != "regression"
        ),
        "token-classification": lambda: _print_tags(console, items, values),
        "question-answering": lambda: _print_answers(console, items, values),
    }
    printers.get(session.task, lambda: _print_vectors(console, items, values))()


def _print_vectors(console: Console, items: Sequence[Item], values: Sequence[Any]) -> None:
    vectors = np.stack(values).astype(np.float64)
    norms = np.linalg.norm(vectors, axis=1)
    plural = "s" if len(vectors) > 1 else ""
    table = _table(f"{len(vectors)} embedding{plural} of {vectors.shape[1]} numbers", "", "text")
    table.add_column("norm", justify="right")
    table.add_column("begins with")
    for number, (item, vector) in enumerate(zip(items, vectors, strict=True)):
        first = " ".join(f"{value:+.4f}" for value in vector[:_FIRST_VALUES])
        table.add_row(str(number), _shown(item), f"{norms[number]:.4f}", f"{first} …")
    console.print(table)
    if not 2 <= len(vectors) <= _MOST_COMPARED:
        return
    directions = vectors / np.maximum(norms, np.finfo(np.float64).tiny)[:, None]
    cosines = directions @ directions.T
    similar = _table("cosine similarity", "", *map(str, range(len(vectors))))
    for number, row in enumerate(cosines):
        similar.add_row(str(number), *(_cosine(value) for value in row))
    console.print(similar)


def _cosine(value: float) -> Text:
    style = "bold green" if value > 0.8 else "" if value > 0.4 else "dim"
    return Text(f"{value:.3f}", style=style)


def _print_labels(
    console: Console, items: Sequence[Item], values: Sequence[list[Label]], *, bars: bool
) -> None:
    table = _table("labels, best first", "text", "label")
    table.add_column("score", justify="right")
    if bars:
        table.add_column("")
    for item, labels in zip(items, values, strict=True):
        for place, label in enumerate(labels):
            row = [_shown(item) if place == 0 else Text(), Text(_clean(label.name))]
            table.add_row(*row, f"{label.score:.4f}", *([_bar(label, place)] if bars else []))
        table.add_section()
    console.print(table)


def _bar(label: Label, place: int) -> Text:
    length = round(float(np.nan_to_num(label.score)) * _BAR)
    return Text("█" * length, style="green" if place == 0 else "dim")


def _print_tags(console: Console, items: Sequence[Item], values: Sequence[list[Tag]]) -> None:
    names = sorted({tag.label for tags in values for tag in tags})
    styles = {name: _COLOURS[place % len(_COLOURS)] for place, name in enumerate(names)}
    for item, tags in zip(items, values, strict=True):
        text = item if isinstance(item, str) else item[0]
        shown = Text(_clean(text))
        for tag in tags:
            shown.stylize(f"bold {styles[tag.label]}", tag.start, tag.end)
        console.print(shown, soft_wrap=True)
        for tag in tags:
            line = f"  {_clean(tag.label)}  {_clean(tag.text)}  {tag.score:.4f}"
            place = f"  characters {tag.start} to {tag.end}"
            console.print(Text(line, styles[tag.label]).append(place, "dim"), soft_wrap=True)


def _print_answers(console: Console, items: Sequence[Item], values: Sequence[list[Span]]) -> None:
    for item, spans in zip(items, values, strict=True):
        question, context = _pair(item)
        console.print(Text(_clean(question), style="bold"), soft_wrap=True)
        if spans:
            console.print(_highlighted(context, spans), soft_wrap=True)
        for span in spans:
            answer = Text(f"  {_clean(span.text) or '(no answer)'}", style="green")
            place = f"  {span.score:.4f}  characters {span.start} to {span.end}"
            console.print(answer.append(place, "dim"), soft_wrap=True)
        if not spans:
            console.print(Text("  (the context is empty)", style="dim"))


def _pair(item: Item) -> tuple[str, str]:
    return (item, "") if isinstance(item, str) else item


def _highlighted(context: str, spans: Sequence[Span]) -> Text:
    """The context around the answers, with these in colour."""
    start = max(0, min(span.start for span in spans) - _AROUND)
    end = max(span.end for span in spans) + _AROUND
    shown = Text(_clean(context[start:end]))
    for place, span in enumerate(spans):
        style = "bold green" if place == 0 else "green"
        shown.stylize(style, span.start - start, span.end - start)
    return Text("… " if start else "").append(shown).append(" …" if end < len(context) else "")


def _shown(item: Item) -> Text:
    text = item if isinstance(item, str) else " | ".join(item)
    return Text(_clean(text if len(text) <= _TEXT else f"{text[: _TEXT - 1]}…"))


def _clean(text: str) -> str:
    """One character for each, so that places stay right; none that a terminal would obey."""
    return "".join(each if each.isprintable() else " " for each in text)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=Text(title), title_justify="left")
    for column in columns:
        table.add_column(column)
    return table
