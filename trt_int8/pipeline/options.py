"""Everything the user can choose for a build."""

from __future__ import annotations

from pathlib import Path

from trt_int8.errors import RecipeError
from trt_int8.spec.base import Frozen
from trt_int8.spec.build import CalibratorName
from trt_int8.spec.manifest import Policy
from trt_int8.spec.methods import Method
from trt_int8.spec.recipe import Recipe
from trt_int8.spec.shapes import ShapeProfile
from trt_int8.spec.targets import Target


class InputOptions(Frozen):
    """What is quantized, how, and with which data.

    Attributes:
        model: folder, hub id, `package:NAME` or `.onnx` file.
        recipe: what to quantize and how.
        calib: text file, or `.npz` file (or folder of such) with one array per input of the
            model; None for the built-in English sentences.
        shapes: profile asked for; None for the default, cut to what the model allows.
        tokenizer: folder of the tokenizer of an ONNX model; None to look beside it.
        ray: address of a Ray cluster that shares the calibration, `local` to start one on this
            machine; None for this process alone.
        requantize: take out the Q/DQ or ranges a model came with, and calibrate it anew.
        sms: compute capabilities of the targets, None for the local card; () if no engine is built.
        plugin_attention: quantize attention for the plugin too, where TensorRT has no INT8 kernel.
    """

    model: str
    recipe: Recipe = Recipe()
    calib: Path | None = None
    shapes: ShapeProfile | None = None
    tokenizer: Path | None = None
    ray: str | None = None
    requantize: bool = False
    sms: tuple[int | None, ...] = ()
    plugin_attention: bool = False


class CalibrateOptions(InputOptions):
    """Input of a calibration study.

    Attributes:
        methods: which to compare.
        out: folder of the results; None for `calibration/<model name>`.
        force: replace old results.
    """

    methods: tuple[Method, ...]
    out: Path | None = None
    force: bool = False


class BuildOptions(InputOptions):
    """Input of the main job.

    Attributes:
        out: bundle folder; None for `engines/<model name>`.
        targets: GPUs to build for; None for the flavour's default.
        flavour: `auto`, `rtx` or `tensorrt`.
        jobs: engines built at once.
        force: replace an old bundle.
        policy: what the INT8 engine must reach.
        cache: folder of calibration caches; None to keep none.
        ranges: file of ranges to use instead of calibrating: ours, or a TensorRT cache.
        implicit_int8: calibrator with which TensorRT up to 10 quantizes the float graph itself;
            None for explicit Q/DQ.
        timing_cache: TensorRT timing cache file (no effect in TensorRT-RTX).
        plugin_libraries: shared libraries with TensorRT plugins.
    """

    out: Path | None = None
    targets: tuple[Target, ...] | None = None
    flavour: str = "auto"
    jobs: int = 2
    force: bool = False
    policy: Policy = Policy()
    cache: Path | None = None
    ranges: Path | None = None
    implicit_int8: CalibratorName | None = None
    timing_cache: Path | None = None
    plugin_libraries: tuple[Path, ...] = ()

    def check(self) -> None:
        """Refuse values out of range.

        Raises:
            RecipeError: naming the option.
        """
        checks = {
            "--min-coverage": (self.policy.min_coverage, 0.0, 1.0),
            "--min-cosine": (self.policy.min_cosine, -1.0, 1.0),
            "--jobs": (self.jobs, 1, 1024),
        }
        for name, (value, low, high) in checks.items():
            if not low <= value <= high:
                raise RecipeError(
                    f"{name} is {value}", wanted=f"{low} to {high}", todo="correct it"
                )
        missing = [str(p) for p in self.plugin_libraries if not p.is_file()]
        if missing:
            raise RecipeError(
                f"no plugin library {missing[0]!r}", wanted="a .so file", todo="check the path"
            )
        names = [p.name for p in self.plugin_libraries]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise RecipeError(
                f"two plugin libraries are called {twice[0]!r}",
                wanted="a name of its own for each: the bundle keeps them in one folder",
                todo="rename one, or pass each once",
            )
