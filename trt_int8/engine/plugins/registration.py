"""Registering every plugin with TensorRT, once per process."""

from __future__ import annotations

from functools import cache
from typing import Any

from trt_int8.engine.flavour import LocalCards
from trt_int8.engine.plugins.callbacks import Tools, make_callbacks
from trt_int8.engine.plugins.driver import DriverLauncher
from trt_int8.engine.plugins.support import check_support
from trt_int8.errors import PluginError
from trt_int8.plugins.compile import compile_ptx
from trt_int8.plugins.kernel import KERNEL_SMS
from trt_int8.plugins.plans import plan_call
from trt_int8.plugins.signatures import NAMESPACE, signatures


def register_plugins(tensorrt: Any, tools: Tools | None = None) -> tuple[str, ...]:
    """Make our plugins known to TensorRT, before a file with them is parsed.

    Nothing is compiled yet, and a plugin that is there already is left alone: it serves every card,
    also those of other architectures. The card whose CUDA context is current (without one, the
    first) is checked each time. An engine built ahead of time holds its kernels and needs no
    registration to be loaded; one whose plugins run as Python (`impl`) does.

    Args:
        tensorrt: the imported package.
        tools: in tests, other ways to plan, compile and launch.

    Returns:
        The ids of all plugins, such as `trt_int8::int8_attention`, in a fixed order.

    Raises:
        PluginError: this TensorRT, this NumPy or this card cannot carry them.
    """
    front_end = check_support(tensorrt)
    tools = tools or _local_tools()
    tools.tactics()  # refuses a card that no kernel runs on now, not inside the build
    there = getattr(front_end.op, NAMESPACE, None)
    for signature in signatures():
        if there is not None and hasattr(there, signature.name):
            continue
        made = make_callbacks(tensorrt, front_end, signature, tools)
        front_end.register(signature.plugin_id)(made.describe)
        front_end.autotune(signature.plugin_id)(made.autotune)
        front_end.aot_impl(signature.plugin_id)(made.ahead_of_time)
        front_end.impl(signature.plugin_id)(made.just_in_time)
    return tuple(signature.plugin_id for signature in signatures())


def tactics_of(sm: int | None) -> tuple[int, ...]:
    """Architectures whose kernels a card runs; all of them without a card.

    A tactic's number is its architecture: kernels for SM75 run on every later card, too, and
    TensorRT keeps the one that is faster there.

    Args:
        sm: compute capability times ten of the card; None if there is none.

    Raises:
        PluginError: the card is older than every kernel.
    """
    tactics = tuple(known for known in KERNEL_SMS if sm is None or known <= sm)
    if not tactics:
        raise PluginError(
            f"the card is an SM{sm}",
            wanted=f"SM{min(KERNEL_SMS)} or newer: the plugins' kernels use its INT8 tensor cores",
            todo="use a newer card, or build with --plugins off",
        )
    return tactics


def _local_tools() -> Tools:
    # All cards share TensorRT's registry of plugins, and what is registered first stays. So which
    # kernels a card runs is asked at every call: of the card whose context is current then.
    cards = LocalCards()
    launcher = DriverLauncher()
    return Tools(plan_call, cache(compile_ptx), launcher, lambda: tactics_of(cards.current_sm()))
