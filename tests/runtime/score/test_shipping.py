"""The copy of a bundle that machines of a cluster make for themselves."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.bundles import contents, make_bundle
from tests.support.fake_ray_data import FakeCluster
from trt_int8 import optional
from trt_int8.runtime.score.opener import BundleScorer
from trt_int8.runtime.score.shipping import Sent, send

pytestmark = pytest.mark.skipif(not hasattr(os, "geteuid"), reason="files have no such owners here")
Calls = list[tuple[Callable[..., object], tuple[Any, ...]]]


@pytest.fixture
def temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files of the machine."""
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    return tmp_path / "temp"


@pytest.fixture
def at_exit(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What is to be done when the process ends."""
    calls: Calls = []
    monkeypatch.setattr(atexit, "register", lambda call, *given, **_: calls.append((call, given)))
    return calls


@pytest.fixture
def sent(tmp_path: Path, temp: Path, monkeypatch: pytest.MonkeyPatch) -> Sent:
    fake = FakeCluster()
    monkeypatch.setattr(optional, "load", fake.load)
    return send(BundleScorer(str(make_bundle(tmp_path / "bundle"))), fake.put)


def opened(sent: Sent) -> Path:
    model = sent.opener()
    assert isinstance(model, BundleScorer)
    return Path(model.bundle)


def test_the_copy_is_for_this_user_alone(sent: Sent, temp: Path) -> None:
    before = os.umask(0)
    try:
        copy = opened(sent)
    finally:
        os.umask(before)
    assert copy.parent.parent == temp
    assert copy.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_a_copy_that_others_may_write_is_not_used(
    sent: Sent, temp: Path, tmp_path: Path, at_exit: Calls, mode: int
) -> None:
    planted = opened(sent)
    (planted / "model.py").write_bytes(b"planted")
    planted.parent.chmod(mode)
    copy = opened(sent)
    assert copy != planted
    assert contents(copy) == contents(tmp_path / "bundle")
    assert copy.parent.stat().st_mode & 0o777 == 0o700
    assert at_exit == [(shutil.rmtree, (copy.parent,))]
    planted.parent.chmod(0o700)
    assert opened(sent) == planted


def test_a_link_in_the_copy_s_place_is_not_followed(
    sent: Sent, temp: Path, tmp_path: Path, at_exit: Calls
) -> None:
    own = opened(sent)
    own.parent.rename(tmp_path / "elsewhere")
    own.parent.symlink_to(tmp_path / "elsewhere")
    assert opened(sent).parent not in (own.parent, tmp_path / "elsewhere")
    assert len(at_exit) == 1


def test_a_copy_that_another_actor_makes_meanwhile_is_used(
    sent: Sent, temp: Path, at_exit: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, others = Path.rename, []

    def second(folder: Path, target: Path) -> Path:
        monkeypatch.setattr(Path, "rename", rename)
        others.append(opened(sent))
        return rename(folder, target)

    monkeypatch.setattr(Path, "rename", second)
    assert [opened(sent)] == others
    assert len(list(temp.iterdir())) == 1
    assert at_exit == []


def test_a_copy_that_cannot_be_finished_leaves_nothing(
    sent: Sent, temp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(OSError, match="No space left"):
        sent.opener()
    assert list(temp.iterdir()) == []
