from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trt_int8.spec.build import Precision
from trt_int8.spec.inspection import (
    WEIGHT_SIZES,
    EngineInspection,
    InspectedMatMul,
    Kernel,
    KernelKind,
    WeightBytes,
    bytes_per_weight,
    group_kernels,
)

_DTYPES = st.sampled_from(["int8", "half", "float"])


def kernel(
    kind: KernelKind,
    operands: str,
    outputs: str = "float",
    family: str = "f",
    *,
    int8: bool = False,
) -> Kernel:
    return Kernel(
        name=family, family=family, kind=kind, operands=tuple(operands.split()),
        outputs=tuple(outputs.split()), nodes=(f"{family}/{operands}",), int8=int8,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "dtype"),
    [
        (kernel("gemm", "int8 int8", int8=True), "int8"),
        (kernel("gemm", "int8 int8"), "unknown"),
        (kernel("gemm", "half half"), "half"),
        (kernel("gemm", "int8 half"), "half"),
        (kernel("gemm", ""), "unknown"),
        (kernel("attention", "half half half", "int8"), "half"),
        (kernel("other", "float", "half int8"), "int8"),
        (kernel("other", "int8", "half"), "half"),
        (kernel("other", "half", ""), "unknown"),
    ],
)
def test_one_data_type_stands_for_a_kernel(found: Kernel, dtype: str) -> None:
    assert found.dtype == dtype


def test_bytes_per_weight_leaves_out_what_is_no_weight() -> None:
    weights = [
        WeightBytes(dtype="int8", values=300, size_bytes=300),
        WeightBytes(dtype="half", values=100, size_bytes=200),
        WeightBytes(dtype="int64", values=512, size_bytes=4096),
    ]
    assert bytes_per_weight(weights) == 1.25
    assert bytes_per_weight(weights[2:]) is None


@given(st.dictionaries(_DTYPES, st.integers(1, 10**9), min_size=1))
def test_bytes_per_weight_lies_between_the_smallest_and_largest_type(
    values: dict[str, int],
) -> None:
    weights = [
        WeightBytes(dtype=d, values=n, size_bytes=n * WEIGHT_SIZES[d]) for d, n in values.items()
    ]
    ratio = bytes_per_weight(weights)
    sizes = [WEIGHT_SIZES[d] for d in values]
    assert ratio is not None
    assert min(sizes) <= ratio <= max(sizes)


@given(st.lists(st.tuples(_DTYPES, st.sampled_from("ab"))))
def test_every_kernel_is_in_exactly_one_group(made: list[tuple[str, str]]) -> None:
    groups = group_kernels(kernel("gemm", dtype, family=family) for dtype, family in made)
    assert sum(group.count for group in groups) == len(made)
    assert len(groups) == len(set(made))


def test_matrix_kernels_come_first_and_many_before_few() -> None:
    made = [
        kernel("other", "half", family="o"),
        kernel("attention", "half"),
        *[kernel("gemm", "half")] * 2,
        *[kernel("gemm", "int8", int8=True)] * 3,
    ]
    assert [(g.kind, g.count) for g in group_kernels(made)] == [
        ("gemm", 3),
        ("gemm", 2),
        ("attention", 1),
        ("other", 1),
    ]


def engine(precision: Precision | None) -> EngineInspection:
    matmul = InspectedMatMul(
        node="a",
        role="linear",
        runs="float",
        operands=("half", "half"),
        output="half",
        constant_weight=False,
        kernel="k",
        fused_attention=False,
        reason="why",
    )
    return EngineInspection(
        sm=75,
        precision=precision,
        file="e.engine",
        size_bytes=1,
        tensorrt_version="1",
        plan_sms=(75,),
        evidence="test",
        matmuls=(matmul,),
        attentions=0,
        attentions_fused=0,
        attentions_int8=0,
        kernels=None,
        weights=None,
    )


@pytest.mark.parametrize(("precision", "found"), [("int8", 1), (None, 1), ("fp16", 0)])
def test_a_weight_computed_at_run_time_is_a_hazard_of_int8_alone(
    precision: Precision | None, found: int
) -> None:
    assert len(engine(precision).requantized) == found
