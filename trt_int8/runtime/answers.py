"""What becomes of each request of a map: outputs, or an error that names it."""

from __future__ import annotations

from dataclasses import dataclass

from trt_int8.errors import (
    RequestCancelledError,
    RequestError,
    SessionError,
    TrtInt8Error,
    first_line,
)
from trt_int8.runtime.backend import Outputs


@dataclass(frozen=True)
class Answer:
    """What became of one request: outputs or an error.

    Attributes:
        index: place of the request, from 0.
        outputs: by name, without batch axis and padding; None if it failed.
        error: why it failed; None if it did not.
    """

    index: int
    outputs: Outputs | None = None
    error: TrtInt8Error | None = None

    @property
    def cancelled(self) -> bool:
        """Whether the run was cancelled before it came to this request."""
        return isinstance(self.error, RequestCancelledError)


def failed_error(index: int, error: Exception) -> SessionError:
    """The error of a request that failed alone; the cause is what the runner raised."""
    came, wanted, todo = first_line(error), "an answer", "see the cause of this error"
    if isinstance(error, TrtInt8Error):
        came, wanted, todo = error.came, error.wanted, error.todo
    failed = SessionError(f"request {index} failed: {came}", wanted=wanted, todo=todo)
    failed.__cause__ = error
    return failed


def unreadable_error(index: int, error: Exception) -> RequestError:
    """The error of a request that raised one when it was read."""
    refused = RequestError(
        f"request {index} cannot be read: {first_line(error)}",
        wanted="a mapping from input names to arrays",
        todo="see the cause of this error",
    )
    refused.__cause__ = error
    return refused


def cancelled_error(index: int) -> RequestCancelledError:
    """The error of a request that was taken, but not run."""
    return RequestCancelledError(
        f"request {index} was not run",
        wanted="it to be run before the map was cancelled",
        todo="send it again",
    )
