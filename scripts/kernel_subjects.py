"""Launches of the shipped kernels whose instructions are counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tests.plugins import attention_cases, gelu_cases, layernorm_cases
from trt_int8.plugins import attention, gelu, layernorm
from trt_int8.plugins.attention import HEAD_DIMS, AttentionOptions
from trt_int8.plugins.gelu import GeluForm
from trt_int8.plugins.integer_ops import IntegerGelu, IntegerLayerNorm, IntegerSoftmax
from trt_int8.plugins.kernel import Argument, Input, KernelLaunch, Output
from trt_int8.plugins.layernorm import LayerNormForm

ROWS = 128


@dataclass(frozen=True)
class Subject:
    """One launch to count.

    Attributes:
        launch: the kernel.
        arguments: of the launch.
        units: pieces of work that the kernel's instructions are divided by.
        unit: what one of them is.
    """

    launch: KernelLaunch
    arguments: Sequence[Argument]
    units: int
    unit: str


def _attention(head_dim: int, length: int) -> Callable[[int], Subject]:
    """Self-attention of one head; the unit is one m16n8k32 product of q k^T or of p v."""

    def make(sm: int) -> Subject:
        options = AttentionOptions(head_dim)
        sizes = attention_cases.Sizes(batch=1, queries=length, keys=length, heads=1)
        tensors = attention_cases.random_tensors(options, sizes)
        scalars = attention_cases.SCALARS
        arguments, _ = attention_cases.kernel_arguments(options, scalars, tensors)
        launch = attention.launch(options, tensors.shape(options), sm)
        groups, keys = -(-length // 16), -(-length // 32)
        # 16 queries, 32 keys: 4 products per 32 elements of q k^T, one per 8 elements of p v.
        products = groups * keys * (4 * -(-head_dim // 32) + head_dim // 8)
        return Subject(launch, arguments, products, "m16n8k32 product")

    return make


def _layernorm(form: LayerNormForm) -> Callable[[int], Subject]:
    """The unit is 32 elements: one for each lane of a warp."""

    def make(sm: int) -> Subject:
        tensors = layernorm_cases.random_tensors(form, ROWS)
        scalars = layernorm_cases.SCALARS
        arguments, _ = layernorm_cases.kernel_arguments(form, scalars, tensors)
        return _rows(layernorm.launch(form, ROWS, sm), arguments, ROWS * form.hidden)

    return make


def _gelu(form: GeluForm) -> Callable[[int], Subject]:
    def make(sm: int) -> Subject:
        x, bias = gelu_cases.random_tensors(form, ROWS)
        arguments, _ = gelu_cases.kernel_arguments(gelu_cases.SCALARS, x, bias)
        return _rows(gelu.launch(form, ROWS, sm), arguments, ROWS * form.hidden)

    return make


def _softmax(sm: int) -> Subject:
    op = IntegerSoftmax(1e-3)
    scores = _integers(2000, 384)
    arguments: list[Argument] = [
        Input(scores),
        *op.arguments(*scores.shape),
        Output(np.empty(scores.shape, "u1")),
    ]
    return _rows(op.launch(*scores.shape, sm), arguments, scores.size)


def _integer_gelu(sm: int) -> Subject:
    op = IntegerGelu(1e-3, 0.04)
    x = _integers(2000, 3072)
    arguments: list[Argument] = [
        Input(x),
        *op.arguments(x.size),
        Output(np.empty(x.shape, np.int8)),
    ]
    return _rows(op.launch(x.size, sm), arguments, x.size)


def _integer_layernorm(sm: int) -> Subject:
    gamma = np.linspace(0.5, 2.0, 768)
    op = IntegerLayerNorm(tuple(gamma.tolist()), tuple((gamma - 1).tolist()), 0.05)
    x = _integers(1 << 18, 768)
    inputs = [Input(x), *(Input(array) for array in op.channel_inputs())]
    arguments: list[Argument] = [*inputs, *op.arguments(ROWS), Output(np.empty(x.shape, np.int8))]
    return _rows(op.launch(ROWS, sm), arguments, x.size)


def _integers(deviation: float, columns: int) -> np.ndarray[tuple[int, int], np.dtype[np.int32]]:
    values = np.random.default_rng(0).normal(0, deviation, (ROWS, columns))
    return np.rint(values).astype(np.int32)


def _rows(launch: KernelLaunch, arguments: Sequence[Argument], elements: int) -> Subject:
    return Subject(launch, arguments, elements // 32, "32 elements")


_FORMS = {
    "768, half": LayerNormForm(768, bias=True),
    "768, int8": LayerNormForm(768, x="int8", residual="int8"),
    "768, half, pre-norm": LayerNormForm(768, half=True, sum=True),
    "768, half, RMSNorm": LayerNormForm(768, rms=True, sum=True),
    "1023, half": LayerNormForm(1023),
    "1024, half": LayerNormForm(1024),
    "4096, half, pre-norm": LayerNormForm(4096, half=True, sum=True),
}
_GELUS = {
    "3072, half": GeluForm(3072),
    "3072, half, tanh": GeluForm(3072, tanh=True),
    "3072, int8, bias": GeluForm(3072, "int8"),
    "3072, int8, table": GeluForm(3072, "int8", bias=False),
}
SUBJECTS: dict[str, Callable[[int], Subject]] = {
    **{
        f"int8_attention D={head_dim} S={length}": _attention(head_dim, length)
        for head_dim, length in ((64, 384), (64, 128), *((d, 384) for d in HEAD_DIMS if d != 64))
    },
    **{f"skip_layernorm_quant H={name}": _layernorm(form) for name, form in _FORMS.items()},
    **{f"bias_gelu_quant H={name}": _gelu(form) for name, form in _GELUS.items()},
    "i_softmax, 384 keys": _softmax,
    "i_gelu": _integer_gelu,
    "i_layernorm, 768 channels": _integer_layernorm,
}
