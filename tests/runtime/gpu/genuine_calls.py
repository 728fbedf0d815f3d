"""Child process: every call that the backend makes, handed to NVIDIA's own `cuda.bindings`.

Prints JSON: the version, and what the genuine module did not take. Without a driver library each
call fails, but only after its arguments were converted: a wrong name, a wrong number or type of
arguments shows before.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.runtime.gpu.fake_cuda import FakeCuda
from tests.runtime.gpu.fake_trt import FakeTrt
from tests.runtime.gpu.test_release import Life
from trt_int8.runtime.gpu.cards import cards

ENUMS = (
    "CUstreamCaptureMode",
    "CUstream_flags",
    "CUevent_flags",
    "CUpointer_attribute",
    "CUdevice_attribute",
)


def calls(driver: Any) -> list[tuple[Any, ...]]:
    """All calls of a session with captures, evictions and arrays on the card, and of `cards`."""
    cuda: Any = FakeCuda()
    for name in ENUMS:
        setattr(cuda, name, getattr(driver, name))
    with tempfile.TemporaryDirectory() as folder:
        life = Life(Path(folder), "10", FakeTrt(cuda, "10")).live()
    assert (life.errors, life.answers) == ([], 7)
    cards(cuda)
    return [call for call in cuda.script.calls if call[0].startswith("cu")]


def fault(driver: Any, name: str, *arguments: Any) -> str | None:
    """What the genuine module has against a call; None if it gets as far as the driver."""
    try:
        getattr(driver, name)(*arguments)
    except RuntimeError:
        return None  # there is no driver library
    except (AttributeError, TypeError, ValueError, OverflowError) as error:
        return f"{name}{arguments}: {error}"
    return f"{name}: there is a driver here"


def main() -> None:
    """Ask, and print what came."""
    bindings = importlib.import_module("cuda.bindings")
    driver = importlib.import_module("cuda.bindings.driver")

    made = calls(driver)
    wrong: list[tuple[Any, ...]] = [
        ("cuGraphLaunches", 1, 2),
        ("cuGraphLaunch", 1),
        ("cuMemAlloc", "many"),
        ("cuMemcpyHtoDAsync", 1, 2, 3),
    ]
    answer = {
        "version": bindings.__version__,
        "names": sorted({call[0] for call in made}),
        "faults": [found for call in made if (found := fault(driver, *call))],
        "controls": [call[0] for call in wrong if fault(driver, *call) is None],
    }
    sys.stdout.write(json.dumps(answer))


if __name__ == "__main__":
    main()
