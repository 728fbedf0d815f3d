"""How a text session is opened."""

from __future__ import annotations

from dataclasses import dataclass, field

from trt_int8.runtime.options import SessionOptions


@dataclass(frozen=True)
class TextOptions:
    """What most callers of `TextSession.open` leave as it is.

    Attributes:
        truncate: cut texts that are too long; else each is an error that names its place.
        max_batch_tokens: most samples times padded tokens of a batch; None for the default.
        session: threads, fixed shapes and runtime.
    """

    truncate: bool = True
    max_batch_tokens: int | None = None
    session: SessionOptions = field(default_factory=SessionOptions)
