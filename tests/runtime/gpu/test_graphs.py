"""CUDA graphs of a session on a card: when one is captured, replayed, dropped, or done without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.runtime.gpu.fake_trt_types import Graphs, Kernels
from tests.runtime.gpu.opened import check, fresh, opened, request

SIZES = ((1, 17), (3, 33), (4, 64), (2, 65), (1, 299), (3, 33), (1, 17))
ALLOCATIONS = ("cuMemAlloc", "cuMemHostAlloc", "create_execution_context", "cuStreamBeginCapture")

every_flavour = pytest.mark.parametrize("flavour", ["8.6", "10", "rtx"])


def test_a_new_shape_runs_once_plain_and_is_then_captured(tmp_path: Path) -> None:
    trt = fresh()
    with opened(tmp_path, trt) as backend:
        start = len(trt.script.calls)
        backend.run(request(3, 33))
        calls = trt.script.calls[start:]
    # The second one is inside the capture.
    assert [call[1] for call in calls if call[0] == "execute_async_v3"] == [False, True]


def test_the_steady_state_is_one_graph_launch_and_one_synchronisation(tmp_path: Path) -> None:
    trt = fresh()
    with opened(tmp_path, trt) as backend:
        backend.run(request(3, 33))
        start = len(trt.script.calls)
        for seed in range(5):
            feeds = request(3, 33, seed)
            check(backend.run(feeds), feeds)
        names = trt.script.names(start)
    steady = ["cuCtxPushCurrent", "cuGraphLaunch", "cuStreamSynchronize", "cuCtxPopCurrent"]
    assert names == steady * 5


@every_flavour
def test_nothing_is_allocated_or_captured_once_every_shape_has_come(
    tmp_path: Path, flavour: str
) -> None:
    trt = fresh(flavour)
    with opened(tmp_path, trt) as backend:
        for batch, tokens in SIZES:
            backend.run(request(batch, tokens))
        start = len(trt.script.calls)
        for batch, tokens in SIZES[::-1] * 2:
            backend.run(request(batch, tokens, 1))
        names = trt.script.names(start)
    assert not set(ALLOCATIONS) & set(names)
    assert "set_input_shape" not in names


def test_an_output_larger_than_foreseen_gets_new_memory_and_new_graphs(tmp_path: Path) -> None:
    trt = fresh()
    with opened(tmp_path, trt) as backend:
        small = request(1, 17)
        backend.run(small)
        trt.growth = 3
        big = request(4, 64)
        outputs = backend.run(big)
        grown = np.repeat(2 * big["ids"] + big["mask"], 3, axis=1)
        np.testing.assert_array_equal(outputs["scores"], grown)
        trt.growth = 1
        # Its graph knew the old address, so it must have been made anew.
        check(backend.run(small), small)
        check(backend.run(small), small)


def test_the_graph_used_longest_ago_is_destroyed_first(tmp_path: Path) -> None:
    trt = fresh()
    with opened(tmp_path, trt, graphs=2) as backend:
        for tokens in (16, 17, 16, 18):  # 17 goes
            backend.run(request(1, tokens))
        assert trt.script.count("cuGraphExecDestroy") == 1
        assert trt.cuda.alive()["executables"] == 2
        assert trt.living().count("Context10") == 2
        captures = trt.script.count("cuStreamBeginCapture")
        backend.run(request(1, 16, 1))
        backend.run(request(1, 18, 1))
        assert trt.script.count("cuStreamBeginCapture") == captures
        feeds = request(1, 17, 1)
        check(backend.run(feeds), feeds)
        assert trt.script.count("cuStreamBeginCapture") == captures + 1


def test_an_engine_that_cannot_be_captured_runs_plain_and_says_so_once(tmp_path: Path) -> None:
    trt = fresh()
    trt.capturable = False
    with opened(tmp_path, trt, workers=2) as backend:
        assert not backend.notes
        for batch, tokens in SIZES:
            feeds = request(batch, tokens)
            check(backend.run(feeds), feeds)
            check(backend.run(feeds), feeds)
        (note,) = backend.notes
        assert note.startswith("runs without CUDA graphs, which costs latency: execute_async_v3")
        assert trt.script.count("cuStreamBeginCapture") == 1
        assert trt.script.count("cuGraphLaunch") == 0


@pytest.mark.parametrize(
    "call", ["cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate", "cuGraphDestroy"]
)
def test_a_capture_that_the_driver_refuses_keeps_the_answer(tmp_path: Path, call: str) -> None:
    trt = fresh()
    trt.script.fail_name = call
    with opened(tmp_path, trt) as backend:
        for seed in range(3):
            feeds = request(3, 33, seed)
            check(backend.run(feeds), feeds)
        (note,) = backend.notes
        assert f"{call} of the CUDA driver gave CUDA_ERROR_UNKNOWN" in note


def test_what_a_failed_capture_leaves_behind_hits_no_request(tmp_path: Path) -> None:
    trt = fresh()
    trt.capturable, trt.remembers = False, True
    with opened(tmp_path, trt) as backend:
        for batch, tokens in SIZES * 2:
            feeds = request(batch, tokens)
            check(backend.run(feeds), feeds)


def test_without_capture_nothing_is_captured(tmp_path: Path) -> None:
    trt = fresh()
    with opened(tmp_path, trt, capture=False) as backend:
        backend.run(request(3, 33))
        backend.run(request(3, 33))
        assert backend.notes == ()
    assert not [name for name in trt.script.names() if "Graph" in name or "Capture" in name]


def test_rtx_captures_itself_and_compiles_the_right_kernels_at_once(tmp_path: Path) -> None:
    trt = fresh("rtx")
    with opened(tmp_path, trt) as backend:
        for _ in range(3):
            backend.run(request(3, 33))
        assert trt.script.count("cuStreamBeginCapture") == 0
        (config,) = trt.configs
        assert config.graphs is Graphs.WHOLE_GRAPH_CAPTURE  # type: ignore[attr-defined]
        assert config.kernels is Kernels.EAGER  # type: ignore[attr-defined]


def test_without_capture_rtx_captures_nothing_either(tmp_path: Path) -> None:
    trt = fresh("rtx")
    with opened(tmp_path, trt, capture=False) as backend:
        backend.run(request(3, 33))
        (config,) = trt.configs
        assert config.graphs is Graphs.DISABLED  # type: ignore[attr-defined]


def test_each_profile_has_contexts_of_its_own(tmp_path: Path) -> None:
    trt = fresh()
    with opened(tmp_path, trt) as backend:
        start = len(trt.script.calls)
        for batch, tokens in ((1, 64), (1, 65), (1, 64), (1, 65)):
            feeds = request(batch, tokens)
            check(backend.run(feeds), feeds)
        switches = [c[1] for c in trt.script.calls[start:] if c[0].startswith("set_optimization")]
    assert switches == [0, 1]
