"""The peers of the runtime benchmark: a failing one is told, never dropped silently."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.bench_runtime import Field, prepare_all
from scripts.runtime_peers.context import Prepared
from scripts.runtime_peers.registry import BASELINE, BF16, OURS, PEERS

closed: list[str] = []


class _Broken:
    name, title = "broken", "broken"

    def prepare(self, context: Any) -> Prepared:
        raise ImportError("no module that it needs\nsecond line")


class _Right:
    name, title = "right", "right"

    def prepare(self, context: Any) -> Prepared:
        return Prepared(lambda feeds: np.ones((1, 1), np.float32), {})


class _WrongLater(_Right):
    name = "later"

    def prepare(self, context: Any) -> Prepared:
        def run(feeds: Any) -> Any:
            raise RuntimeError("no kernel")

        return Prepared(run, {}, close=lambda: closed.append("later"))


def test_a_peer_that_raises_is_told_and_the_others_go_on() -> None:
    said: list[str] = []
    peers: Any = [_Broken(), _WrongLater(), _Right()]
    found = prepare_all(peers, None, [{"x": np.ones(1)}], said.append)  # type: ignore[arg-type]
    assert list(found.ready) == ["right"]
    assert found.errors == {
        "broken": "ImportError: no module that it needs",
        "later": "RuntimeError: no kernel",
    }
    assert closed == ["later"]
    assert sum("does not run" in line for line in said) == 2


def test_a_peer_that_fails_later_is_closed_and_its_error_kept() -> None:
    gone: list[int] = []
    field = Field(
        {"x": Prepared(lambda _: np.ones((1, 1), np.float32), {}, None, lambda: gone.append(1))}
    )
    field.drop("x", RuntimeError("first\nsecond"))
    assert not field.ready
    assert field.errors == {"x": "RuntimeError: first"}
    assert gone == [1]


def test_names_of_peers_differ_and_their_modules_exist() -> None:
    names = [peer.name for peer in PEERS]
    assert len(names) == len(set(names))
    assert {OURS, BASELINE, BF16} <= set(names)
    folder = Path(__file__).parent.parent / "scripts" / "runtime_peers"
    assert all((folder / f"{peer.module}.py").is_file() for peer in PEERS)


def test_every_function_of_the_registry_takes_the_arguments_it_is_given() -> None:
    for peer in PEERS:
        try:
            module = importlib.import_module(f"scripts.runtime_peers.{peer.module}")
        except ImportError as error:
            pytest.skip(f"{error.name} is not installed")
        inspect.signature(getattr(module, peer.function)).bind(None, **peer.arguments)
