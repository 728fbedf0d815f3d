"""What of a user's own quantizers is accepted, and what is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytorch_quantization.nn import TensorQuantizer

from tests.support.tiny_transformers import tokens
from tests.support.user_models import Block, calibrated_block
from trt_int8.annotate.user_model import check_quantizers, fit_for_export, reached_quantizers
from trt_int8.errors import ModelError

LINEARS, SITES = 4, 5


def check(model: Block) -> tuple[str, ...]:
    return check_quantizers(model, lambda: model(*tokens())).active


def test_all_quantizers_of_a_calibrated_model_are_active() -> None:
    assert len(check(calibrated_block())) == 2 * LINEARS + SITES


def test_a_quantizer_that_no_call_reaches_is_not_looked_at() -> None:
    model = calibrated_block()
    model.spare = torch.nn.ModuleList([TensorQuantizer()])
    assert "spare.0" not in check(model)


def test_looking_for_quantizers_leaves_their_switches_and_hooks() -> None:
    model = calibrated_block()
    model.residual_quantizer.disable()
    reached_quantizers(model, lambda: model(*tokens()))
    disabled = [n for n, m in model.named_modules() if getattr(m, "_disabled", False)]
    assert disabled == ["residual_quantizer"]
    assert not any(module._forward_pre_hooks for module in model.modules())


def change(name: str, **values: object) -> Callable[[Block], None]:
    def apply(model: Block) -> None:
        quantizer = model.get_submodule(name)
        for key, value in values.items():
            setattr(quantizer, key, value)

    return apply


def without_amax(name: str) -> Callable[[Block], None]:
    def apply(model: Block) -> None:
        del model.get_submodule(name)._amax

    return apply


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without_amax("query_quantizer"), "'query_quantizer' has no amax"),
        (without_amax("dense._input_quantizer"), "'dense._input_quantizer' has no amax"),
        (change("key_quantizer", _num_bits=4), "'key_quantizer' has num_bits=4"),
        (change("softmax_quantizer", _unsigned=True), "'softmax_quantizer' is unsigned"),
        (change("value_quantizer", _if_calib=True), "'value_quantizer' is still calibrating"),
        (change("value_quantizer", _if_quant=False), "'value_quantizer' is still calibrating"),
        (change("dense._weight_quantizer", _fake_quant=False), "_weight_quantizer' has fake_quant"),
        (
            change("residual_quantizer", _amax=torch.ones(1, 1, 64)),
            "'residual_quantizer' has 64 ranges on an activation",
        ),
        (change("key_quantizer", _amax=torch.tensor(float("nan"))), "negative, NaN or infinite"),
        (change("key_quantizer", _amax=torch.tensor(0.0)), "'key_quantizer' has amax 0"),
        (
            change("qkv.1._weight_quantizer", _disabled=True),
            "'qkv.1._weight_quantizer' is disabled while input_quantizer is not",
        ),
        (
            change("dense._input_quantizer", _disabled=True),
            "'dense._input_quantizer' is disabled while weight_quantizer is not",
        ),
    ],
)
def test_what_cannot_run_int8_is_refused_by_the_name_of_its_module(
    spoil: Callable[[Block], None], message: str
) -> None:
    model = calibrated_block()
    spoil(model)
    with pytest.raises(ModelError, match=message.replace(".", r"\.")):
        check(model)


def test_a_model_with_all_quantizers_disabled_is_refused() -> None:
    model = calibrated_block()
    for module in model.modules():
        if isinstance(module, TensorQuantizer):
            module.disable()
    with pytest.raises(ModelError, match=r"no active TensorQuantizer \(all are disabled\)"):
        check(model)


def test_a_layer_that_the_user_switched_off_whole_is_reported_as_such() -> None:
    model = calibrated_block()
    for name in ("_input_quantizer", "_weight_quantizer"):
        model.dense.get_submodule(name).disable()
    found = check_quantizers(model, lambda: model(*tokens()))
    assert found.disabled == ("dense._input_quantizer", "dense._weight_quantizer")


def test_for_the_export_a_weight_without_a_range_gets_that_of_its_rows() -> None:
    model = calibrated_block()
    quantizer = model.dense._weight_quantizer
    with fit_for_export(model):
        torch.testing.assert_close(
            quantizer.amax, model.dense.weight.detach().abs().amax(1, keepdim=True), rtol=0, atol=0
        )
        assert TensorQuantizer.use_fb_fake_quant
    assert quantizer.amax is None
    assert not TensorQuantizer.use_fb_fake_quant


def test_for_the_export_a_row_of_zeros_gets_the_smallest_range() -> None:
    model = calibrated_block()
    given = torch.arange(64.0).reshape(64, 1)
    model.dense._weight_quantizer.register_buffer("_amax", given.clone())
    with fit_for_export(model):
        assert model.dense._weight_quantizer.amax[:3].reshape(-1).tolist() == [1.0, 1.0, 2.0]
    torch.testing.assert_close(model.dense._weight_quantizer.amax, given)


class Custom(torch.nn.Module):
    """A user's own Linear: its weight quantizer has a name of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = torch.nn.Parameter(torch.ones(16, 16))
        self.on_matrix: Any = TensorQuantizer()
        self.on_input: Any = TensorQuantizer()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        product: torch.Tensor = self.on_input(x) @ self.on_matrix(self.matrix)
        return product


def test_ranges_per_channel_are_taken_on_a_parameter_and_not_on_an_activation() -> None:
    model = Custom()
    wide, one = torch.ones(1, 16), torch.tensor(1.0)
    for name, on_matrix, on_input in (("", wide, one), ("on_input", wide, wide)):
        model.on_matrix._amax, model.on_input._amax = on_matrix, on_input
        if not name:
            check_quantizers(model, lambda: model(torch.ones(2, 16)))
            continue
        with pytest.raises(ModelError, match=f"'{name}' has 16 ranges on an activation"):
            check_quantizers(model, lambda: model(torch.ones(2, 16)))
