"""What a failed call of the driver tells its user to do."""

from __future__ import annotations

import pytest

from trt_int8.runtime.gpu.memory import call_failed


@pytest.mark.parametrize(
    ("call", "reason", "todo"),
    [
        ("cuStreamSynchronize", "CUDA_ERROR_ILLEGAL_ADDRESS", "start this process anew"),
        ("cuGraphLaunch", "CUDA_ERROR_LAUNCH_FAILED", "start this process anew"),
        ("cuMemAlloc", "CUDA_ERROR_OUT_OF_MEMORY", "free memory on the card"),
        ("cuMemHostAlloc", "CUDA_ERROR_OUT_OF_MEMORY", "process or container"),
        ("cuGraphLaunch", "CUDA_ERROR_UNKNOWN", "open the session again"),
    ],
)
def test_each_kind_of_failure_has_its_own_mend(call: str, reason: str, todo: str) -> None:
    error = call_failed(call, reason)
    assert error.came == f"{call} of the CUDA driver gave {reason}"
    assert todo in error.todo


def test_the_errors_that_end_a_process_are_names_that_cuda_has() -> None:
    driver = pytest.importorskip("cuda.bindings.driver")
    known = {code.name for code in driver.CUresult}
    for code in known:
        ends = "start this process anew" in call_failed("cuGraphLaunch", code).todo
        # 700 to 719, but those of calls (such as PEER_ACCESS_ALREADY_ENABLED), are of kernels.
        assert not ends or 700 <= int(getattr(driver.CUresult, code)) <= 719
    assert sum("anew" in call_failed("cuGraphLaunch", code).todo for code in known) == 9
