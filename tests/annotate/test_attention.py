"""Primitive attention against transformers' own eager attention."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.masking_utils import bidirectional_mask_function, causal_mask_function

from tests.support.tiny_transformers import tiny_backbone, tokens
from trt_int8.annotate.attention import (
    IMPLEMENTATION,
    attention_modules,
    boolean_mask,
    primitive_attention,
    use_primitive_attention,
)
from trt_int8.errors import ModelError

FAMILIES = ("Bert", "Roberta", "DistilBert", "Electra")


def hidden(backbone: Any, ids: Tensor, mask: Tensor | None) -> Tensor:
    with torch.no_grad():
        result: Tensor = backbone(input_ids=ids, attention_mask=mask).last_hidden_state
    return result


def primitive(family: str) -> Any:
    backbone = tiny_backbone(family)
    assert use_primitive_attention(backbone, tokens(), lambda i, m: hidden(backbone, i, m))
    return backbone


def heads(n: int = 2, n_kv: int = 2, length: int = 7) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    sizes = ((n, 5), (n_kv, 5), (n_kv, 5))
    query, key, value = (torch.randn(2, h, length, d, generator=generator) for h, d in sizes)
    return query, key, value


def attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, **options: Any
) -> Tensor:
    return primitive_attention(nn.Identity(), query, key, value, mask, **options)[0]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_gives_the_hidden_states_of_eager_attention_with_padding(family: str) -> None:
    eager = tiny_backbone(family)
    eager.set_attn_implementation("eager")
    ids, mask = tokens()
    expected, found = hidden(eager, ids, mask), hidden(primitive(family), ids, mask)
    kept = mask.bool()
    torch.testing.assert_close(found[kept], expected[kept], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_padded_tokens_do_not_reach_the_others(family: str) -> None:
    backbone, (ids, mask) = primitive(family), tokens()
    other = torch.where(mask.bool(), ids, (ids + 5) % 90 + 3)
    kept, first = mask.bool(), hidden(backbone, ids, mask)
    torch.testing.assert_close(hidden(backbone, other, mask)[kept], first[kept], rtol=0, atol=0)
    without = torch.ones_like(mask)
    assert (hidden(backbone, other, without) - first)[kept].abs().max() > 1e-3


def test_no_mask_is_a_mask_of_ones() -> None:
    backbone, (ids, mask) = primitive("Bert"), tokens()
    without, ones = hidden(backbone, ids, None), hidden(backbone, ids, torch.ones_like(mask))
    torch.testing.assert_close(without, ones, rtol=0, atol=0)


def test_a_row_with_every_token_masked_stays_finite() -> None:
    ids, mask = tokens()
    mask[1] = 0
    assert bool(hidden(primitive("Bert"), ids, mask).isfinite().all())


def test_attention_is_softmax_of_scaled_scores_times_values() -> None:
    query, key, value = heads()
    scores = torch.einsum("bnqd,bnkd->bnqk", query, key) / 5**0.5
    expected = torch.einsum("bnqk,bnkd->bqnd", scores.softmax(-1), value)
    torch.testing.assert_close(attend(query, key, value), expected)


def test_a_scaling_given_by_the_model_is_used() -> None:
    query, key, value = heads()
    scores = torch.einsum("bnqd,bnkd->bnqk", query, key) * 0.3
    expected = torch.einsum("bnqk,bnkd->bqnd", scores.softmax(-1), value)
    torch.testing.assert_close(attend(query, key, value, scaling=0.3), expected)


def test_key_heads_are_shared_by_groups_of_query_heads() -> None:
    query, key, value = heads(n=6, n_kv=2)
    expected = nn.functional.scaled_dot_product_attention(query, key, value, enable_gqa=True)
    torch.testing.assert_close(attend(query, key, value), expected.transpose(1, 2))


def test_a_boolean_mask_hides_keys() -> None:
    query, key, value = heads()
    mask = torch.ones(2, 1, 1, 7, dtype=torch.bool)
    mask[1, ..., 4:] = False
    expected = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    torch.testing.assert_close(attend(query, key, value, mask=mask), expected.transpose(1, 2))


def test_an_additive_mask_is_added_to_the_scores() -> None:
    query, key, value = heads()
    bias = torch.linspace(-2, 2, 7).reshape(1, 1, 1, 7)
    expected = nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    torch.testing.assert_close(attend(query, key, value, mask=bias), expected.transpose(1, 2))


def test_a_fully_masked_row_averages_the_values() -> None:
    query, key, value = heads()
    found = attend(query, key, value, mask=torch.zeros(2, 1, 1, 7, dtype=torch.bool))
    expected = value.mean(2, keepdim=True).expand(-1, -1, 7, -1).transpose(1, 2)
    torch.testing.assert_close(found, expected)


def test_dropout_is_ignored() -> None:
    tensors = heads()
    torch.testing.assert_close(attend(*tensors, dropout=0.9), attend(*tensors), rtol=0, atol=0)


@pytest.mark.parametrize("option", ["softcap", "s_aux", "position_bias", "sliding_window"])
def test_an_option_that_changes_the_result_is_refused(option: str) -> None:
    with pytest.raises(ModelError, match=f"Identity uses {option}; wanted plain scaled"):
        attend(*heads(), None, **dict[str, Any]({option: 4.0}))


def test_an_option_that_is_none_is_no_reason_to_refuse() -> None:
    tensors = heads()
    torch.testing.assert_close(attend(*tensors, softcap=None), attend(*tensors), rtol=0, atol=0)


def test_padding_becomes_a_small_boolean_mask() -> None:
    padding = tokens()[1]
    mask = boolean_mask(mask_function=bidirectional_mask_function, attention_mask=padding)
    assert mask is not None
    assert (mask.shape, mask.dtype) == ((3, 1, 1, 11), torch.bool)
    torch.testing.assert_close(mask[:, 0, 0], padding == 1)


def test_a_causal_mask_keeps_its_square_form() -> None:
    mask = boolean_mask(
        batch_size=1,
        q_length=4,
        kv_length=4,
        q_offset=0,
        kv_offset=0,
        mask_function=causal_mask_function,
        attention_mask=None,
    )
    assert mask is not None
    torch.testing.assert_close(mask[0, 0], torch.ones(4, 4, dtype=torch.bool).tril())


def test_the_modules_that_compute_attention_are_found_and_left_clean() -> None:
    backbone = primitive("Bert")
    before = {name: dict(vars(m)) for name, m in backbone.named_modules()}
    found = attention_modules(backbone, tokens(), lambda i, m: hidden(backbone, i, m))
    names = [name for name, _ in found]
    assert names == [f"encoder.layer.{i}.attention.self" for i in (0, 1)]
    assert {n: set(vars(m)) for n, m in backbone.named_modules()} == {
        n: set(v) for n, v in before.items()
    }


def test_a_model_with_attention_code_of_its_own_is_told_apart_and_still_runs() -> None:
    class Own(nn.Module):
        def set_attn_implementation(self, name: str) -> None:
            self.implementation = name

        def forward(self, ids: Tensor) -> Tensor:
            return ids.float().softmax(-1)

    model = Own()
    assert not use_primitive_attention(model, (torch.ones(2, 3),), model)
    assert model.implementation == "eager"


def test_a_model_that_needs_an_option_falls_back_to_its_own_attention() -> None:
    backbone = tiny_backbone("Bert")

    def with_softcap(*_: Tensor) -> None:
        if backbone.config._attn_implementation == IMPLEMENTATION:
            attend(*heads(), softcap=3.0)

    assert not use_primitive_attention(backbone, tokens(), with_softcap)
    assert backbone.config._attn_implementation == "eager"
