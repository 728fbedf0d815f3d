"""What the child process does: register the plugins with the genuine front end and build layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.kernels.front_end import mutations
from tests.kernels.front_end.builder import Build, Layer, Registry, install
from tests.kernels.front_end.driver import RecordingDriver
from trt_int8.engine.plugins import register_plugins
from trt_int8.engine.plugins.callbacks import Tools
from trt_int8.engine.plugins.driver import DriverLauncher
from trt_int8.plugins.compile import compile_ptx
from trt_int8.plugins.kernel import KERNEL_SMS
from trt_int8.plugins.plans import plan_call

# Device addresses of a JIT run, told apart by the test.
POINTER_BASE = 0x10000
STREAM = 99


def run(cases: list[dict[str, Any]], mutation: str = "") -> list[dict[str, Any]]:
    """Build every case; an exception of the front end or of the build ends one case only.

    Args:
        cases: fields of `Layer`, and `sizes`: numbers for its named sizes, several times.
        mutation: a planted bug of `mutations.py`; then no layer is run as Python.
    """
    import tensorrt as trt

    registry = install(trt)
    driver = RecordingDriver()
    tools = Tools(plan_call, compile_ptx, DriverLauncher(driver), lambda: KERNEL_SMS)
    try:
        tools = mutations.apply(mutation, tools)
        ids = register_plugins(trt, tools)
        if register_plugins(trt, tools) != ids:
            raise RuntimeError("a second registration gave other ids")
    except Exception as error:  # noqa: BLE001 (any of them goes to the test)
        return [{"error": f"{type(error).__name__}: {error}", "stage": "register"}] * len(cases)
    return [_Trial(trt, registry, driver, case).results(jit=not mutation) for case in cases]


class _Trial:
    """One layer, built and run in every way."""

    def __init__(
        self, trt: Any, registry: Registry, driver: RecordingDriver, case: dict[str, Any]
    ) -> None:
        self._trt, self._driver = trt, driver
        self._sizes: list[dict[str, int]] = case["sizes"]
        every = {name: [some[name] for some in self._sizes] for name in self._sizes[0]}
        bounds = {name: (min(values), max(values)) for name, values in every.items()}
        fields = {name: value for name, value in case.items() if name != "sizes"}
        self._layer = Layer(**fields, bounds=bounds)
        self._namespace, self._name = self._layer.plugin_id.split("::")
        self._creator = registry.get_creator(self._name, "1", self._namespace)

    def results(self, *, jit: bool) -> dict[str, Any]:
        """As `cases.build` describes them."""
        stage = "build"
        try:
            build = Build(self._trt, self._layer, "STRICT_AOT")
            built = {
                "tactics": build.tactics,
                "output_kinds": [kind.name for kind in build.output_kinds],
                "output_shapes": [self._shapes(build, sizes) for sizes in self._sizes],
                "kernels": {tactic: self._kernel(build, tactic) for tactic in build.tactics},
                "parsed": self._parsed_attributes(),
            }
            stage = "run as Python"
            return {**built, "jit": self._just_in_time() if jit else []}
        except Exception as error:  # noqa: BLE001
            return {"error": f"{type(error).__name__}: {error}", "stage": stage}

    def _shapes(self, build: Build, sizes: dict[str, int]) -> list[list[int]]:
        return [[size.value(sizes) for size in shape] for shape in build.output_shapes]

    def _kernel(self, build: Build, tactic: int) -> dict[str, Any]:
        kernel = build.kernel(tactic)
        launches = [kernel.launch(sizes) for sizes in self._sizes]
        return {"name": kernel.name, "ptx": kernel.ptx, "launches": launches}

    def _parsed_attributes(self) -> dict[str, Any]:
        """Attributes as the plugin gets them from the ONNX parser: float32 and int32."""
        trt = self._trt
        fields = []
        for name, value in self._layer.attributes.items():
            integer = isinstance(value, int)
            kind = trt.PluginFieldType.INT32 if integer else trt.PluginFieldType.FLOAT32
            array = np.array([value], np.int32 if integer else np.float32)
            fields.append(trt.PluginField(name, array, kind))
        collection = trt.PluginFieldCollection(fields)
        request = trt.QuickPluginCreationRequest.PREFER_AOT
        plugin = self._create(collection, trt.TensorRTPhase.BUILD, request)
        if not isinstance(plugin, trt.IPluginV3QuickAOTBuild):
            raise TypeError("PREFER_AOT made a plugin that runs as Python")
        return dict(plugin.attrs)

    def _just_in_time(self) -> list[dict[str, Any]]:
        """Launches of the plugin that a deserialised engine would hold, by tactic and sizes."""
        build = Build(self._trt, self._layer, "STRICT_JIT")
        fields = build.plugin.get_fields_to_serialize()
        plugin = self._create(fields, self._trt.TensorRTPhase.RUNTIME)
        self._driver.launches.clear()
        for tactic in build.tactics:
            plugin.set_tactic(tactic)
            for sizes in self._sizes:
                self._enqueue(plugin, build, sizes)
        return list(self._driver.launches)

    def _enqueue(self, plugin: Any, build: Build, sizes: dict[str, int]) -> None:
        kinds = [getattr(self._trt.DataType, kind) for kind in self._layer.kinds]
        count = len(kinds)
        shapes = [[sizes[s] if isinstance(s, str) else s for s in t] for t in self._layer.shapes]
        shapes += self._shapes(build, sizes)
        pairs = zip([*kinds, *build.output_kinds], shapes, strict=True)
        tensors = [self._described(kind, shape) for kind, shape in pairs]
        pointers = [POINTER_BASE + index for index in range(len(tensors))]
        strides = [[1] * len(shape) for shape in shapes]
        parts = (tensors, pointers, strides)
        descriptions, addresses, steps = ((part[:count], part[count:]) for part in parts)
        plugin.enqueue(*descriptions, *addresses, *steps, STREAM)

    def _create(self, fields: Any, phase: Any, *request: Any) -> Any:
        return self._creator.create_plugin(self._name, self._namespace, fields, phase, *request)

    def _described(self, kind: Any, shape: list[int]) -> Any:
        description = self._trt.PluginTensorDesc()
        description.dims, description.type = self._trt.Dims(shape), kind
        description.format = self._trt.TensorFormat.LINEAR
        return description
