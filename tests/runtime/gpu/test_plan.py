from __future__ import annotations

from trt_int8.errors import SessionError
from trt_int8.runtime.gpu.plan import GraphPolicy


def test_graphs_are_given_up_once_however_many_workers_fail() -> None:
    policy = GraphPolicy(enabled=True)
    for call in ("cuStreamEndCapture", "cuGraphInstantiate"):
        policy.give_up(SessionError(f"{call} failed", wanted="success", todo="try again"))
    assert not policy.enabled
    assert policy.notes == [
        "runs without CUDA graphs, which costs latency: cuStreamEndCapture failed"
    ]
