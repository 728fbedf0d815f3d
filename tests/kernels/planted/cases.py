"""Small launches of the real kernels, on which planted bugs show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.kernels.micro_run import MICRO_FOLDER
from tests.plugins import gelu_cases, layernorm_cases
from trt_int8.plugins import attention, gelu, layernorm
from trt_int8.plugins.integer_ops import IntegerSoftmax
from trt_int8.plugins.kernel import Argument, Input, KernelLaunch, KernelVariant, Output

SCALES = attention.AttentionScalars(0.02, 0.02, 0.02, 0.01, 0.125)


@dataclass(frozen=True)
class Run:
    """A launch with its arguments; the outputs among them are filled by a layer."""

    launch: KernelLaunch
    arguments: tuple[Argument, ...]

    @property
    def outputs(self) -> list[NDArray[Any]]:
        """The output arrays, in order."""
        return [each.array for each in self.arguments if isinstance(each, Output)]


def _attention(sm: int, options: attention.AttentionOptions, queries: int, keys: int) -> Run:
    random = np.random.default_rng(queries)
    shape = attention.AttentionShape(1, queries, keys, 2, mask=(1, 1, queries))
    q, k, v = (
        random.integers(-128, 128, (rows, 2, options.head_dim)).astype(np.int8)
        for rows in (queries, keys, keys)
    )
    mask = [Input(random.normal(0, 3, (1, 1, queries, keys)).astype(np.float32))]
    inputs = [Input(q), Input(k), Input(v), *(mask if options.additive else [])]
    integers = attention.integer_arguments(options, shape, SCALES)
    launch = attention.launch(options, shape, sm)
    return Run(launch, (*inputs, *integers, Output(np.zeros_like(q))))


def several_tiles(sm: int) -> Run:
    """Attention over four tiles of keys; the last block has warps without a query."""
    return _attention(sm, attention.AttentionOptions(32), 150, 230)


def full_rows(sm: int) -> Run:
    """Attention whose rows fill their shared memory to the last byte, with a mask per query."""
    return _attention(sm, attention.AttentionOptions(80, mask="full"), 37, 70)


def behind_padding(sm: int) -> Run:
    """Attention whose one visible key comes after a tile that float16's lowest mask hides."""
    options = attention.AttentionOptions(16, mask="full")
    shape = attention.AttentionShape(1, 1024, 65, 1, mask=(1, 1, 1024))
    v = np.random.default_rng(9).integers(-128, 128, (65, 16)).astype(np.int8)
    mask = np.full((1024, 65), np.finfo(np.float16).min, np.float32)
    mask[:, 64] = np.linspace(0, 0.75, 1024)
    q, output = np.zeros((1024, 16), np.int8), np.zeros((1024, 16), np.int8)
    inputs = (Input(q), Input(np.zeros_like(v)), Input(v), Input(mask))
    integers = attention.integer_arguments(options, shape, SCALES)
    return Run(attention.launch(options, shape, sm), (*inputs, *integers, Output(output)))


def two_warps_a_row(sm: int) -> Run:
    """LayerNorm over rows that several warps share."""
    form = layernorm.LayerNormForm(2048)
    tensors = layernorm_cases.random_tensors(form, 3)
    arguments, _ = layernorm_cases.kernel_arguments(form, layernorm_cases.SCALARS, tensors)
    return Run(layernorm.launch(form, 3, sm), tuple(arguments))


def half_filled_block(sm: int) -> Run:
    """LayerNorm with more rows' worth of threads in the last block than rows."""
    form = layernorm.LayerNormForm(100)
    tensors = layernorm_cases.random_tensors(form, 5)
    arguments, _ = layernorm_cases.kernel_arguments(form, layernorm_cases.SCALARS, tensors)
    return Run(layernorm.launch(form, 5, sm), tuple(arguments))


def table_of_codes(sm: int) -> Run:
    """GELU by table, whose last block has threads without an element."""
    form = gelu.GeluForm(72, "int8", bias=False)
    x, bias = gelu_cases.random_tensors(form, 31)
    arguments, _ = gelu_cases.kernel_arguments(gelu_cases.SCALARS, x, bias)
    return Run(gelu.launch(form, 31, sm), tuple(arguments))


def far_scores(sm: int) -> Run:
    """Integer softmax over rows that hold both ends of int32."""
    scores = np.random.default_rng(4).integers(-3000, 3000, (5, 131)).astype(np.int32)
    scores[:, ::9], scores[:, 4::9] = 2**31 - 1, -(2**31)
    op = IntegerSoftmax(1e-3)
    out = Output(np.zeros(scores.shape, np.uint8))
    return Run(op.launch(5, 131, sm), (Input(scores), *op.arguments(5, 131), out))


def one_product(sm: int) -> Run:
    """One mma with unsigned A, some of whose bytes are above 127."""
    random = np.random.default_rng(5)
    a, b = (random.integers(0, 2**32, (32, n), dtype=np.uint32) for n in (4, 2))
    c = random.integers(-9, 9, (32, 4)).astype(np.int32)
    variant = KernelVariant(str(MICRO_FOLDER / "matrices.cu"), "mma_u8s8", sm)
    arguments = (Input(a), Input(b), Input(c), Output(np.zeros((32, 4), np.int32)))
    return Run(KernelLaunch(variant, (1, 1, 1), 32), arguments)


def transposed_load(sm: int) -> Run:
    """One ldmatrix with .trans."""
    x = np.random.default_rng(6).integers(0, 256, (32, 16)).astype(np.uint8)
    variant = KernelVariant(str(MICRO_FOLDER / "matrices.cu"), "ldmatrix_x4_trans", sm)
    arguments = (Input(x), 16, Output(np.zeros((32, 4), np.uint32)))
    return Run(KernelLaunch(variant, (1, 1, 1), 32, 512), arguments)


def _elements(sm: int, entry: str, arrays: list[NDArray[Any]], output: Any) -> Run:
    variant = KernelVariant(str(MICRO_FOLDER / "arithmetic.cu"), entry, sm)
    inputs = tuple(Input(array) for array in arrays)
    size: Argument = arrays[0].size
    arguments = (*inputs, size, Output(np.zeros(arrays[0].size, output)))
    return Run(KernelLaunch(variant, (1, 1, 1), 128), arguments)


def roundings(sm: int) -> Run:
    """float_to_s8 over ties and values beyond int8."""
    return _elements(sm, "float_to_s8", [np.arange(-160, 160, 2.5).astype(np.float32)], np.int32)


def byte_choices(sm: int) -> Run:
    """permute_bytes with any selector."""
    random = np.random.default_rng(7)
    words = [random.integers(0, 2**32, 128, dtype=np.uint32) for _ in range(3)]
    return _elements(sm, "permute_bytes", words, np.uint32)


def byte_products(sm: int) -> Run:
    """dot4_u8 with bytes above 127."""
    random = np.random.default_rng(8)
    words = [random.integers(0, 2**32, 128, dtype=np.uint32) for _ in range(3)]
    return _elements(sm, "dot4_u8", words, np.uint32)


CASES: dict[str, Callable[[int], Run]] = {
    case.__name__: case
    for case in (
        *(several_tiles, full_rows, behind_padding, two_warps_a_row, half_filled_block),
        *(table_of_codes, far_scores, one_product, transposed_load, roundings, byte_choices),
        byte_products,
    )
}
