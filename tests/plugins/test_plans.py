from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.shape_exprs import FRONT_END, ShapeExpr
from trt_int8.engine.plugins.symbolic import Symbol
from trt_int8.errors import PluginError
from trt_int8.plugins.calls import PlannedKernel, PluginCall, output_kinds, output_sizes
from trt_int8.plugins.kernel import KERNEL_SMS, SHARED_MEMORY_LIMIT_BYTES, float_bits
from trt_int8.plugins.plans import plan_call
from trt_int8.plugins.signatures import PluginSignature, signature_named, signatures

B, S, K, N, D, H, T = 3, 17, 70, 2, 64, 48, 45
SIZES = {
    "q": (B, S, N, D),
    "k": (B, K, N, D),
    "v": (B, K, N, D),
    "qkv": (B, S, 3, N, D),
    "key_lengths": (B,),
    "mask": (B, 1, S, K),
    "cu_seqlens": (B + 1,),
    **dict.fromkeys(("x", "residual"), (B, S, H)),
    **dict.fromkeys(("bias", "gamma", "beta"), (H,)),
}
FLOATS = {"q_scale": 0.02, "k_scale": 0.03, "v_scale": 0.5, "softmax_scale": 0.125}
FLOATS |= {"x_scale": 0.25, "residual_scale": 0.5, "output_scale": 0.125, "epsilon": 1e-5}


def call(name: str, **changes: Any) -> PluginCall:
    """A call with usual sizes for SM75; `changes` are sizes of inputs, attributes, or `sm`."""
    signature = signature_named(name)
    sm = changes.pop("sm", 75)
    sizes = {**SIZES, **changes}
    if "ragged" in name:
        sizes.update(dict.fromkeys(("q", "k", "v"), (T, N, D)))
    if "packed_mask" in name:
        sizes["mask"] = (B, 1, S, S)
    attributes = {
        spec.name: changes.get(spec.name, FLOATS.get(spec.name, 0)) for spec in signature.attributes
    }
    kinds = [spec.kinds[0] for spec in signature.inputs]
    return PluginCall(
        signature,
        (*kinds, *output_kinds(signature, attributes)),
        tuple(sizes[spec.name] for spec in signature.inputs),
        attributes,
        sm,
    )


def defines(name: str, **changes: Any) -> dict[str, int]:
    return dict(plan_call(call(name, **changes)).variant.defines)


@pytest.mark.parametrize("signature", signatures(), ids=lambda s: s.name)
@pytest.mark.parametrize("sm", KERNEL_SMS)
def test_every_form_has_a_launch_that_a_card_can_run(signature: PluginSignature, sm: int) -> None:
    planned = plan_call(call(signature.name, sm=sm))
    assert planned.variant.sm == sm
    assert all(0 < size < 2**16 for size in planned.grid)
    assert planned.block % 32 == 0
    assert 32 <= planned.block <= 1024
    assert 0 <= planned.shared_bytes <= SHARED_MEMORY_LIMIT_BYTES
    assert all(-(2**31) <= value < 2**31 for value in planned.integers)


def test_no_two_forms_share_a_compilation() -> None:
    variants = [plan_call(call(signature.name)).variant for signature in signatures()]
    assert len(set(variants)) == len(variants)


def test_attention_gets_sizes_then_float_bits() -> None:
    planned = plan_call(call("int8_attention"))
    queries, keys, heads, _, factor = planned.integers
    assert (queries, keys, heads) == (S, K, N)
    assert factor == float_bits(0.5 / 0.125)  # v_scale / output_scale
    assert planned.grid[1:] == (N, B)


def test_a_packed_or_ragged_attention_has_as_many_keys_as_queries() -> None:
    assert plan_call(call("int8_attention_packed")).integers[:3] == (S, S, N)
    ragged = plan_call(call("int8_attention_ragged"))
    assert ragged.integers[:3] == (T, T, N)
    assert ragged.grid[1:] == (N, B)  # one fewer than cu_seqlens has entries


@pytest.mark.parametrize(
    ("mask", "number", "sizes"),
    [((B, 1, 1, K), 2, (B, 1, 1)), ((1, N, S, K), 3, (1, N, S))],
)
def test_a_mask_without_a_size_per_query_is_one_of_keys(
    mask: tuple[int, ...], number: int, sizes: tuple[int, ...]
) -> None:
    planned = plan_call(call("int8_attention_mask", mask=mask))
    assert dict(planned.variant.defines)["MASK"] == number
    assert planned.integers[5:] == sizes


def test_attributes_that_choose_code_become_macros() -> None:
    assert defines("int8_attention", causal=1)["CAUSAL"] == 1
    assert defines("int8_attention", half_output=1)["HALF_OUTPUT"] == 1
    assert defines("bias_gelu_quant", tanh=1)["TANH"] == 1
    assert defines("bias_gelu_quant")["TANH"] == 0


def test_rows_are_all_dimensions_but_the_last() -> None:
    assert plan_call(call("bias_gelu_quant")).integers[0] == B * S
    assert plan_call(call("bias_gelu_quant_no_bias", x=(H,))).integers[0] == 1
    assert plan_call(call("skip_layernorm_quant")).integers[0] == B * S


def test_layernorm_gets_rows_then_float_bits() -> None:
    planned = plan_call(call("skip_layernorm_quant"))
    wanted = (0.25, 0.5, 1 / 0.125, 1e-5)  # x, residual, inverse of the output's, epsilon
    assert planned.integers == (B * S, *map(float_bits, wanted))


def symbolic(sizes: tuple[int, ...], known: tuple[int, ...]) -> tuple[Any, ...]:
    return tuple(
        size if axis in known else Symbol(FRONT_END, ShapeExpr(size))
        for axis, size in enumerate(sizes)
    )


def values(planned: PlannedKernel) -> list[int]:
    parts = (*planned.grid, *planned.integers)
    return [part.expression.value if isinstance(part, Symbol) else part for part in parts]


@given(st.integers(1, 300), st.integers(2, 2000), st.sampled_from(KERNEL_SMS))
def test_an_attention_planned_with_expressions_launches_as_with_numbers(
    batch: int, length: int, sm: int
) -> None:
    sizes = {"q": (batch, length, N, D), "k": (batch, length + 1, N, D)}
    sizes |= {"v": sizes["k"], "mask": (batch, 1, length, length + 1)}
    unknown = {name: symbolic(s, (2, 3) if name != "mask" else (1,)) for name, s in sizes.items()}
    numbers = plan_call(call("int8_attention_mask", sm=sm, **sizes))
    expressions = plan_call(call("int8_attention_mask", sm=sm, **unknown))
    assert values(expressions) == values(numbers)
    assert expressions.variant == numbers.variant


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([33, 48, 1056]))
def test_rows_planned_with_expressions_launch_as_with_numbers(
    batch: int, length: int, hidden: int
) -> None:
    vectors = dict.fromkeys(("bias", "gamma", "beta"), (hidden,))
    rows = dict.fromkeys(("x", "residual"), (batch, length, hidden))
    unknown = {name: symbolic(s, (2,)) for name, s in rows.items()}
    for name in ("bias_gelu_quant", "skip_layernorm_quant_bias"):
        numbers = plan_call(call(name, **vectors, **rows))
        assert values(plan_call(call(name, **vectors, **unknown))) == values(numbers)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("int8_attention", {"k": (B, K, N, 32)}, "'k' is [3, 70, 2, 32], but D is 64"),
        ("int8_attention", {"v": (B, K + 1, N, D)}, "'v' is [3, 71, 2, 64], but K is 70"),
        ("int8_attention_packed", {"qkv": (B, S, 2, N, D)}, "but 3 is 3"),
        ("int8_attention_lengths", {"key_lengths": (B + 1,)}, "'key_lengths' is [4], but B is 3"),
        ("int8_attention_mask", {"mask": (B, 1, 1, 5)}, "'mask' is [3, 1, 1, 5], but K is 70"),
        ("int8_attention_mask", {"mask": (B, 5, 1, K)}, "got a mask of (3, 5, 1)"),
        ("int8_attention", {"q": (B, S, N, 40), "k": (B, K, N, 40), "v": (B, K, N, 40)}, "heads"),
        ("int8_attention", {"causal": 2}, "attribute 'causal' is 2; wanted 0 or 1"),
        ("int8_attention", {"q_scale": float("nan")}, "q_scale = nan"),
        ("skip_layernorm_quant", {"gamma": (1,)}, "'gamma' is [1] beside 'x' [3, 17, 48]"),
        ("skip_layernorm_quant", {"residual": (1, S, H)}, "the kernel does not broadcast"),
        ("skip_layernorm_quant", {"residual": (S, H)}, "the kernel does not broadcast"),
        ("skip_layernorm_quant", {"epsilon": 0.0}, "epsilon = 0.0"),
        ("bias_gelu_quant", {"x": (0, H)}, "0 rows"),
    ],
)
def test_what_a_kernel_does_not_do_is_refused_with_the_reason(
    name: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(PluginError) as caught:
        plan_call(call(name, **changes))
    assert message in str(caught.value)


def test_a_size_that_the_kernel_is_compiled_for_must_be_known() -> None:
    unknown = {name: symbolic(SIZES[name], (2,)) for name in ("q", "k", "v")}
    with pytest.raises(PluginError, match="dimension -1 of 'q' is not known at build time"):
        plan_call(call("int8_attention", **unknown))


def test_a_head_size_that_only_k_knows_is_not_enough() -> None:
    with pytest.raises(PluginError, match="dimension -1 of 'q' is not known"):
        plan_call(call("int8_attention", q=symbolic(SIZES["q"], (2,))))


def test_outputs_have_the_shape_of_q_without_the_axis_of_three() -> None:
    packed = signature_named("int8_attention_packed")
    assert output_sizes(packed, [SIZES["qkv"]]) == ((B, S, N, D),)
    plain = signature_named("int8_attention")
    assert output_sizes(plain, [SIZES["q"], SIZES["k"], SIZES["v"]]) == ((B, S, N, D),)


def test_every_output_of_a_layernorm_has_the_shape_of_x() -> None:
    signature = signature_named("skip_layernorm_quant_half_sum")
    assert output_sizes(signature, [SIZES["x"]]) == (SIZES["x"],) * 3
    assert output_kinds(signature, {}) == ("int8", "float16", "float16")


@pytest.mark.parametrize(("half", "kind"), [(0, "int8"), (1, "float16")])
def test_an_attribute_chooses_the_type_of_an_attention(half: int, kind: str) -> None:
    assert output_kinds(signature_named("int8_attention"), {"half_output": half}) == (kind,)
