"""Our kernels as plugins of TensorRT 10.9 and newer, through its `tensorrt.plugin`."""

from __future__ import annotations

from trt_int8.engine.plugins.registration import register_plugins
from trt_int8.engine.plugins.support import check_support

__all__ = ["check_support", "register_plugins"]
