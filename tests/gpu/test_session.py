"""What only a machine with an NVIDIA GPU can show of the runtime: real answers, real memory.

Never run where this was written: there was no GPU. `make test-gpu` runs it. What could be shown
without one is in `tests/runtime/gpu`.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from tests.support.attention_block import build, request_for
from tests.support.bundles import manifest_of
from trt_int8.engine import selftest
from trt_int8.engine.flavour import MODULE_OF, local_sm
from trt_int8.errors import SessionError
from trt_int8.evaluate.compare import run
from trt_int8.runtime.checks import CheckedBundle, check_gpu
from trt_int8.runtime.gpu.backend import EngineBackend, GpuOptions
from trt_int8.runtime.gpu.cards import find_card
from trt_int8.runtime.session import Session
from trt_int8.runtime.tensors import read_signature
from trt_int8.spec.build import Flavour
from trt_int8.spec.manifest import MANIFEST_NAME, EngineEntry

Array = NDArray[Any]

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(local_sm() is None, reason="needs an NVIDIA GPU with its driver"),
    pytest.mark.skipif(
        importlib.util.find_spec("cuda") is None,
        reason="needs cuda-python: pip install 'trt-int8[gpu]'",
    ),
]
SIZES = ((1, 17), (2, 33), (2, 128), (1, 64), (1, 17))


def make_bundle(folder: Path, flavour: Flavour, sm: int) -> Path:
    """A bundle of the self-test's attention block, float32 `x` [B, S, 64] to `out`."""
    name = MODULE_OF[flavour]
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"needs the package {name}")
    path = folder / "model.int8.onnx"
    onnx.save(selftest.positive_control(), str(path))
    target = sm if flavour is Flavour.RTX else None
    request = request_for(path, target, flavour)
    build({"int8": request})
    engine = folder / f"sm{sm}" / "int8.engine"
    engine.parent.mkdir()
    Path(request.engine_path).rename(engine)
    manifest = manifest_of(folder).model_copy(
        update={
            "flavour": flavour,
            "tensorrt_version": importlib.import_module(name).__version__,
            "engines": (EngineEntry(path=f"sm{sm}/int8.engine", sm=sm, precision="int8"),),
            "profiles": (selftest.SHAPES,),
        }
    )
    (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
    return folder


@pytest.fixture(scope="module", params=list(Flavour), ids=[each.value for each in Flavour])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    sm = local_sm()
    assert sm is not None
    if request.param is Flavour.RTX and sm not in (75, 80):
        pytest.skip(f"RTX engines are built for SM75 and SM80, this is an SM{sm}")
    return make_bundle(tmp_path_factory.mktemp("gpu"), request.param, sm)


@pytest.fixture
def checked(bundle: Path) -> CheckedBundle:
    return check_gpu(bundle, find_card(0))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Runtime caches go where the test ends them."""
    monkeypatch.setenv("TRT_INT8_CACHE", str(tmp_path))
    return tmp_path


def opened(checked: CheckedBundle, folder: Path, **options: Any) -> EngineBackend:
    signature = read_signature(checked.model, checked.manifest.profiles)
    return EngineBackend(checked, signature, 0, GpuOptions(cache_folder=folder, **options))


def feeds_of(batch: int, tokens: int, seed: int = 0) -> dict[str, Array]:
    random = np.random.default_rng(1000 * batch + tokens + seed)
    return {"x": random.standard_normal((batch, tokens, 64)).astype(np.float32)}


def check(got: Array, model: Path, feeds: dict[str, Array]) -> None:
    """The answer is that of ONNX Runtime but for rounding.

    Q/DQ rounds to steps of amax / 127; kernels may round a value on a border the other way.
    """
    wanted = run(model, [feeds], lambda: None)[0]["out"]
    assert got.shape == wanted.shape
    assert got.dtype == wanted.dtype
    assert np.isfinite(got).all()
    assert np.sqrt(np.mean((got - wanted) ** 2) / np.mean(wanted**2)) < 0.05


@pytest.mark.usefixtures("cache")
def test_a_session_on_the_card_answers_like_onnx_runtime(bundle: Path) -> None:
    with Session.open(bundle, "cuda:0") as session:
        for _ in range(3):
            for batch, tokens in SIZES:
                feeds = feeds_of(batch, tokens)
                check(session.run(feeds)["out"], bundle / "model.int8.onnx", feeds)


def test_graphs_give_the_bits_that_plain_runs_give(checked: CheckedBundle, cache: Path) -> None:
    answers = []
    for capture in (True, False):
        backend = opened(checked, cache, capture=capture)
        assert backend.notes == ()
        answers.append([backend.run(feeds_of(*size))["out"] for _ in range(3) for size in SIZES])
        assert backend.notes == (), "the engine could not be captured"
        backend.close()
    for with_graph, plain in zip(*answers, strict=True):
        np.testing.assert_array_equal(with_graph, plain)


def test_pushed_out_graphs_are_made_again_and_right(checked: CheckedBundle, cache: Path) -> None:
    backend = opened(checked, cache, graphs=2)
    first: dict[tuple[int, int], Array] = {}
    for _ in range(3):
        for size in SIZES:
            got = backend.run(feeds_of(*size))["out"]
            np.testing.assert_array_equal(got, first.setdefault(size, got))
    backend.close()


def test_threads_on_two_workers_get_their_own_answers(checked: CheckedBundle, cache: Path) -> None:
    alone = opened(checked, cache)
    cases = [feeds_of(*SIZES[i % len(SIZES)], seed=i) for i in range(40)]
    wanted = [alone.run(feeds)["out"] for feeds in cases]
    alone.close()
    both = opened(checked, cache, workers=2)
    with ThreadPoolExecutor(8) as threads:
        got = list(threads.map(lambda feeds: both.run(feeds)["out"], cases))
    both.close()
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(one, other)


class OnCard:
    """A NumPy array's copy on the card, with the interface that torch and CuPy have."""

    def __init__(self, driver: Any, array: Array) -> None:
        self._driver, self._array = driver, array
        self.pointer = succeeded(driver.cuMemAlloc(array.nbytes))
        succeeded(driver.cuMemcpyHtoD(self.pointer, array.ctypes.data, array.nbytes))

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        array = self._array
        data = (int(self.pointer), False)
        return {"shape": array.shape, "typestr": array.dtype.str, "data": data, "version": 2}

    def free(self) -> None:
        succeeded(self._driver.cuMemFree(self.pointer))


@pytest.fixture
def driver() -> Iterator[Any]:
    """The driver with the first card's context current."""
    module = importlib.import_module("cuda.bindings.driver")
    succeeded(module.cuInit(0))
    device = succeeded(module.cuDeviceGet(0))
    context = succeeded(module.cuDevicePrimaryCtxRetain(device))
    succeeded(module.cuCtxPushCurrent(context))
    yield module
    succeeded(module.cuCtxPopCurrent())
    succeeded(module.cuDevicePrimaryCtxRelease(device))


def succeeded(answer: tuple[Any, ...]) -> Any:
    assert int(answer[0]) == 0, f"CUDA error {answer[0]}"
    return answer[1] if len(answer) > 1 else None


def test_arrays_on_the_card_give_the_bits_that_numpy_gives(
    checked: CheckedBundle, cache: Path, driver: Any
) -> None:
    backend = opened(checked, cache)
    for seed in range(3):
        feeds = feeds_of(2, 33, seed)
        wanted = backend.run(feeds)["out"]
        given = OnCard(driver, feeds["x"])
        for _ in range(2):
            np.testing.assert_array_equal(backend.run({"x": given})["out"], wanted)
        given.free()
    backend.close()


def test_closing_gives_the_card_s_memory_back(
    checked: CheckedBundle, cache: Path, driver: Any
) -> None:
    def free_bytes() -> int:
        return int(driver.cuMemGetInfo()[1])

    def live() -> None:
        backend = opened(checked, cache, workers=2)
        for size in SIZES:
            backend.run(feeds_of(*size))
        assert free_bytes() < before
        backend.close()

    before = free_bytes()
    live()  # CUDA and TensorRT keep what they load once per process
    before = free_bytes()
    for _ in range(3):
        live()
    # cuMemAlloc works in pages of 2 MB.
    assert before - free_bytes() <= 2 << 20


def test_a_context_that_was_current_is_current_again(
    checked: CheckedBundle, cache: Path, driver: Any
) -> None:
    before = int(succeeded(driver.cuCtxGetCurrent()))
    backend = opened(checked, cache)
    backend.run(feeds_of(1, 17))
    backend.close()
    assert int(succeeded(driver.cuCtxGetCurrent())) == before


def test_a_closed_backend_refuses_requests(checked: CheckedBundle, cache: Path) -> None:
    backend = opened(checked, cache)
    backend.close()
    backend.close()
    with pytest.raises(SessionError, match="closed"):
        backend.run(feeds_of(1, 17))


def test_rtx_keeps_what_it_compiled(checked: CheckedBundle, cache: Path) -> None:
    if checked.manifest.flavour is not Flavour.RTX:
        pytest.skip("TensorRT has no runtime cache")
    backend = opened(checked, cache)
    backend.run(feeds_of(1, 17))
    backend.close()
    (file,) = cache.iterdir()
    assert file.stat().st_size > 0
    again = opened(checked, cache)
    again.run(feeds_of(1, 17))
    again.close()
    assert again.notes == ()
