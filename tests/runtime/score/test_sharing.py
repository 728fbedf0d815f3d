"""Actors on one machine share its cores."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.fake_ray_data import FakeCluster
from tests.support.fake_scorer import FakeOpener, Watcher
from trt_int8 import optional
from trt_int8.runtime.score.cluster import Cluster
from trt_int8.runtime.score.opener import BundleScorer
from trt_int8.runtime.score.run import ScoreOptions, run_score


@pytest.mark.parametrize(("actors", "sharing"), [(None, 1), (1, 1), (3, 3)])
def test_actors_on_one_machine_are_told_to_share_it(
    options: ScoreOptions, monkeypatch: pytest.MonkeyPatch, actors: int | None, sharing: int
) -> None:
    opened: list[BundleScorer] = []

    def call(self: BundleScorer) -> Any:
        opened.append(self)
        return FakeOpener()()

    monkeypatch.setattr(BundleScorer, "__call__", call)
    monkeypatch.setattr(optional, "load", FakeCluster().load)
    run_score(options, Watcher(), Cluster("local", actors))
    assert {one.sharing for one in opened} == {sharing}
