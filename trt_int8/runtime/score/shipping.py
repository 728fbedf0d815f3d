"""Get a bundle to the machines of a cluster, or make sure that they have the same one."""

from __future__ import annotations

import atexit
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trt_int8 import optional
from trt_int8.engine.bundle import file_sha256, list_files
from trt_int8.engine.manifest_reader import load_manifest
from trt_int8.errors import ScoreError
from trt_int8.files import is_own_folder
from trt_int8.runtime.score.opener import BundleScorer
from trt_int8.runtime.score.work import Opener
from trt_int8.spec.manifest import MANIFEST_NAME

_BUNDLE, _TOKENIZER = "bundle", "given-tokenizer"


@dataclass(frozen=True)
class Sent:
    """A model for another machine.

    Attributes:
        model: opens it; its paths are those of the sender.
        sha256: of the bundle's manifest, or empty if it is not a bundle.
        copy_name: of the folder that a copy gets, different for different files.
        files: what was shipped: (path in the copy, reference in the object store).
    """

    model: Opener
    sha256: str = ""
    copy_name: str = ""
    files: tuple[tuple[str, Any], ...] = ()

    def opener(self) -> Opener:
        """Opens the model on this machine.

        Raises:
            ScoreError: the bundle is not here, or is another one.
        """
        if not isinstance(self.model, BundleScorer):
            return self.model
        model = self.model
        if self.files:
            copy = _unpacked(self.copy_name, self.files)
            given = str(copy / _TOKENIZER) if model.tokenizer is not None else None
            model = replace(model, bundle=str(copy / _BUNDLE), tokenizer=given)
        file = Path(model.bundle) / MANIFEST_NAME
        if not file.is_file() or file_sha256(file) != self.sha256:
            state = "is another one" if file.is_file() else "is not there"
            raise ScoreError(
                f"the bundle {model.bundle!r} {state}",
                wanted=f"one whose manifest has sha256 {self.sha256[:12]}…",
                todo="put it on a path that all machines share, or pass --ship",
            )
        return model


def send(opener: Opener, put: Callable[[bytes], Any] | None) -> Sent:
    """Prepare a model for other machines.

    Args:
        opener: a bundle; anything else that can be pickled is sent as it is.
        put: puts bytes into the object store; None if the bundle is at the same path everywhere.
    """
    if not isinstance(opener, BundleScorer):
        return Sent(opener)
    bundle = Path(opener.bundle).resolve()
    given = None if opener.tokenizer is None else Path(opener.tokenizer).resolve()
    model = replace(opener, bundle=str(bundle), tokenizer=None if given is None else str(given))
    mark = file_sha256(bundle / MANIFEST_NAME)
    if put is None:
        return Sent(model, mark)
    names, whole = (*load_manifest(bundle).files, MANIFEST_NAME), hashlib.sha256(mark.encode())
    files = [(f"{_BUNDLE}/{name}", bundle / name) for name in names]
    if given is not None:
        for name, entry in list_files(given).items():
            files.append((f"{_TOKENIZER}/{name}", given / name))
            whole.update(f"{name} {entry.sha256}\n".encode())
    shipped = tuple((name, put(path.read_bytes())) for name, path in files)
    return Sent(model, mark, f"trt_int8-{whole.hexdigest()[:16]}", shipped)


def _unpacked(name: str, files: tuple[tuple[str, Any], ...]) -> Path:
    """The copy on this machine, made once and whole, for all its actors.

    Everybody may write where temporary files are. If something of another user stands in the copy's
    place, this actor has a copy to itself, until its process ends.
    """
    get = optional.load("ray").get
    user = os.getuid() if hasattr(os, "getuid") else 0
    target = Path(tempfile.gettempdir()) / f"{name}-{user}"
    if is_own_folder(target):
        return target
    # Only this user may look or write into a folder of `mkdtemp`, so all inside is safe, too.
    folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        for inner, reference in files:
            (folder / inner).parent.mkdir(parents=True, exist_ok=True)
            (folder / inner).write_bytes(get(reference))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    try:
        folder.rename(target)
    except OSError:
        if is_own_folder(target):  # another actor was first, which is as good
            shutil.rmtree(folder, ignore_errors=True)
        else:
            atexit.register(shutil.rmtree, folder, ignore_errors=True)
            return folder
    return target
