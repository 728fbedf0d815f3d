"""Bugs that a plugin's author could make, planted into the plugins inside the child process."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final

from trt_int8.engine.plugins import callbacks, registration
from trt_int8.engine.plugins.callbacks import Callbacks, Tools, make_callbacks
from trt_int8.plugins import calls, gelu
from trt_int8.plugins.calls import PlannedKernel


def apply(name: str, tools: Tools) -> Tools:
    """Tools with the bug; some are patched into the modules instead (the process is a child)."""
    if not name:
        return tools
    return MUTATIONS[name](tools)


def _planned(change: Callable[[PlannedKernel], PlannedKernel]) -> Callable[[Tools], Tools]:
    def mutate(tools: Tools) -> Tools:
        return replace(tools, plan=lambda call: change(tools.plan(call)))

    return mutate


def _swapped(planned: PlannedKernel) -> PlannedKernel:
    first, second, *rest = planned.integers
    return replace(planned, integers=(second, first, *rest))


def _misnamed(tools: Tools) -> Tools:
    return replace(
        tools,
        compile=lambda variant: replace(
            tools.compile(variant), variant=replace(variant, entry=variant.entry + "s")
        ),
    )


def _floor_grid(tools: Tools) -> Tools:
    def grid(form: gelu.GeluForm, rows: Any) -> Any:
        return rows * (form.hidden // form.width) // gelu.BLOCK

    gelu.grid_blocks = grid
    return tools


def _wrong_shape(tools: Tools) -> Tools:
    right = calls.output_sizes

    def shapes(signature: Any, sizes: Any) -> Any:
        return tuple((*size[:-1], size[-1] + 1) for size in right(signature, sizes))

    vars(callbacks)["output_sizes"] = shapes
    return tools


def _callbacks(change: Callable[[Callbacks], Callbacks]) -> Callable[[Tools], Tools]:
    def mutate(tools: Tools) -> Tools:
        vars(registration)["make_callbacks"] = lambda *given: change(make_callbacks(*given))
        return tools

    return mutate


def _ragged(made: Callbacks) -> Callbacks:
    def autotune(*arguments: Any) -> Any:
        (combination,) = made.autotune(*arguments)
        combination.io_types.pop()
        combination.layouts.pop()
        return [combination]

    return replace(made, autotune=_like(autotune, made.autotune))


def _other_types(made: Callbacks) -> Callbacks:
    def autotune(*arguments: Any) -> Any:
        (combination,) = made.autotune(*arguments)
        combination.io_types = ["FP32"] * len(combination.io_types)
        return [combination]

    return replace(made, autotune=_like(autotune, made.autotune))


def _plain_integers(made: Callbacks) -> Callbacks:
    def aot(*arguments: Any) -> Any:
        name, ptx, launch, integers = made.ahead_of_time(*arguments)
        integers[0] = 3
        return name, ptx, launch, integers

    return replace(made, ahead_of_time=_like(aot, made.ahead_of_time))


def _subset(made: Callbacks) -> Callbacks:
    signature = inspect.signature(made.ahead_of_time)
    kept = [p for name, p in signature.parameters.items() if name != "output_scale"]

    # As an author would write it: a fixed number of parameters, one fewer than there are.
    source = f"lambda {', '.join(p.name for p in kept)}: made.ahead_of_time()"
    aot = eval(source, {"made": made})
    aot.__signature__ = signature.replace(parameters=kept)
    return replace(made, ahead_of_time=aot)


def _attribute_typo(made: Callbacks) -> Callbacks:
    signature = inspect.signature(made.ahead_of_time)
    parameters = [
        p.replace(name="output_scales") if p.name == "output_scale" else p
        for p in signature.parameters.values()
    ]

    made.ahead_of_time.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=parameters
    )
    return made


def _like(function: Any, other: Any) -> Any:
    function.__signature__ = inspect.signature(other)
    return function


MUTATIONS: Final[Mapping[str, Callable[[Tools], Tools]]] = {
    "floor grid": _floor_grid,
    "swapped arguments": _planned(_swapped),
    "missing argument": _planned(lambda p: replace(p, integers=p.integers[:-1])),
    "shared memory 16 bytes too small": _planned(
        lambda p: replace(p, shared_bytes=p.shared_bytes - 16)
    ),
    "block of 64": _planned(lambda p: replace(p, block=64)),
    "wrong output shape": _wrong_shape,
    "kernel name typo": _misnamed,
    "attribute name typo": _callbacks(_attribute_typo),
    "ragged types": _callbacks(_ragged),
    "types of another network": _callbacks(_other_types),
    "argument without a width": _callbacks(_plain_integers),
    "attribute subset": _callbacks(_subset),
}
