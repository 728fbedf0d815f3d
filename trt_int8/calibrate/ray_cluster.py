"""Reach a Ray cluster, and say in one line why it cannot be reached or what became of it."""

from __future__ import annotations

import socket
from typing import Any

from trt_int8.errors import TrtInt8Error, first_line

LOCAL = "local"
_ANSWER_SECONDS = 10.0


def connect(ray: Any, address: str, kind: type[TrtInt8Error]) -> None:
    """Join a cluster, or start one on this machine.

    Args:
        ray: the package.
        address: of the cluster (`auto`, `host:port`), or `local` to start one, which the caller
            then has to stop.
        kind: class of the error.

    Raises:
        TrtInt8Error: of that class; there is no cluster at this address.
    """
    # CRITICAL: an error of ours is raised once, so Ray need not log those of the other shards.
    options = {"log_to_driver": False, "logging_level": "CRITICAL", "ignore_reinit_error": True}
    try:
        if address == LOCAL:
            # Named, for without an address Ray joins whatever runs on this machine.
            ray.init(address=LOCAL, include_dashboard=False, **options)
        else:
            _knock(address)
            ray.init(address=address, **options)
    except Exception as error:  # Ray raises ConnectionError, ValueError, RuntimeError and others
        raise kind(
            f"no Ray cluster at {address!r} ({first_line(error)})",
            wanted="a running cluster, or --ray local",
            todo="start one with `ray start --head`, or leave --ray out",
        ) from error


def _knock(address: str) -> None:
    """Ray itself tries for more than ten minutes to reach a machine that does not answer."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), _ANSWER_SECONDS).close()


def lost(error: Exception, kind: type[TrtInt8Error]) -> TrtInt8Error:
    """The error of class `kind` that says what Ray says of a worker, by its last line."""
    last = str(error).strip().splitlines()[-1:]
    return kind(
        f"a Ray worker failed ({last[0].strip() if last else type(error).__name__})",
        wanted="workers with the same packages and enough memory",
        todo="look at the cluster's logs, or leave --ray out",
    )
