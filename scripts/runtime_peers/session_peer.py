"""Ours: the Session of the bundle."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from scripts.runtime_peers.context import SHAPES, Context, Prepared
from trt_int8.calibrate.texts import TokenArrays
from trt_int8.runtime.cpu.openvino import OpenVinoBackend
from trt_int8.runtime.options import SessionOptions
from trt_int8.runtime.session import Session


def prepare(context: Context, *, fixed: bool = False) -> Prepared:
    """A Session on the CPU; with `fixed` one that was opened for the shapes that are timed."""
    shapes = SHAPES if fixed else ()
    options = SessionOptions(shapes=shapes, threads=context.threads)
    session = Session.open(context.bundle, device="cpu", options=options)
    name = session.outputs[0].name

    def run(feeds: TokenArrays) -> NDArray[np.float32]:
        found: NDArray[np.float32] = session.run(feeds)[name]
        return found

    def compiled(_feeds: TokenArrays) -> Any:
        return openvino_model(session)

    settings = {"backend": session.backend_name, "shapes": shapes}
    # The first of the fixed shapes is the one whose graph is listed.
    return Prepared(run, settings, compiled, session.close)


def openvino_model(session: Session) -> Any:
    """The compiled model of the first shape."""
    if not isinstance(session.backend, OpenVinoBackend):
        raise TypeError(f"the session runs on {session.backend_name}; wanted OpenVINO")
    return session.backend.compiled_model
