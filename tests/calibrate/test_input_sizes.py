"""Which sizes a graph takes, and its axes told without running it on two sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.support.collected import EVERYTHING
from tests.support.onnx_tiny import Tiny, noise
from tests.support.ragged import padded
from tests.support.tiny_transformers import text_model
from trt_int8.annotate.onnx_model import plan_onnx
from trt_int8.calibrate.arrays import Batch
from trt_int8.calibrate.input_sizes import InputSizes
from trt_int8.calibrate.onnx_statistics import OnnxTensors
from trt_int8.calibrate.token_axes import TokenAxes
from trt_int8.errors import RangeError
from trt_int8.graph.export import export_float
from trt_int8.model.huggingface import TextModel
from trt_int8.model.inputs import ModelInput
from trt_int8.spec.recipe import Recipe

NONE: frozenset[int] = frozenset()


def graph(*inputs: tuple[str, int, list[Any]]) -> onnx.ModelProto:
    """A graph with these inputs and one weight [6, 4]."""
    tiny = Tiny()
    tiny.op("MatMul", "x", tiny.const("w", noise(6, 4)), out="y")
    model = tiny.build({}, {"y": ["b", 4]})
    for name, kind, axes in inputs:
        model.graph.input.append(helper.make_tensor_value_info(name, kind, axes))
    return model


def text(batch: int | str = "b", tokens: int | str = "s") -> onnx.ModelProto:
    return graph(
        ("input_ids", TensorProto.INT64, [batch, tokens]),
        ("attention_mask", TensorProto.INT64, [batch, tokens]),
        ("embeds", TensorProto.FLOAT, [batch, tokens, 3]),
        ("image", TensorProto.FLOAT, [batch, 2, 7]),
    )


def sample(rows: int = 4, tokens: int = 9) -> Batch:
    ids = np.arange(rows * tokens).reshape(rows, tokens)
    mask = np.ones_like(ids)
    mask[:, -2:] = 0
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "embeds": noise(rows, tokens, 3),
        "image": noise(rows, 2, 7),
    }


def test_a_probe_has_one_sample_repeated_its_tokens_cut_or_repeated_and_no_padding() -> None:
    probe = InputSizes(text()).probe(sample(), (3, 11))
    assert probe["input_ids"].tolist() == [[0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1]] * 3
    assert probe["attention_mask"].tolist() == [[1] * 11] * 3
    assert probe["embeds"].shape == (3, 11, 3)
    np.testing.assert_array_equal(probe["embeds"][2, 9], sample()["embeds"][0, 0])
    assert probe["image"].shape == (3, 2, 7)
    np.testing.assert_array_equal(probe["image"][1], sample()["image"][0])


@pytest.mark.parametrize(
    ("model", "can_probe", "batch"),
    [
        (text(), True, None),
        (text(tokens=9), False, None),
        (text(batch=4), False, 4),
        (text(batch=4, tokens=9), False, 4),
        (graph(("image", TensorProto.FLOAT, ["b", 2, 7])), True, None),
        (graph(("image", TensorProto.FLOAT, [1, 2, 7])), False, 1),
    ],
)
def test_a_graph_is_probed_if_batch_and_masked_tokens_are_free(
    model: onnx.ModelProto, can_probe: bool, batch: int | None
) -> None:
    sizes = InputSizes(model)
    assert (sizes.can_probe, sizes.batch) == (can_probe, batch)


def test_samples_and_tokens_are_those_of_the_batch() -> None:
    assert InputSizes(text()).of(sample(4, 9)) == (4, 9)
    assert InputSizes(text(tokens=9)).of(sample(4, 9)) == (4, 9)


@pytest.mark.parametrize(
    ("shape", "kinds"),
    [
        ((2, 13, 64), ("batch", "tokens", "fixed")),
        ((2, 4, 13, 13), ("batch", "fixed", "tokens", "tokens")),
        ((26, 64), ("both", "fixed")),
        ((8, 13, 32), ("batch", "tokens", "fixed")),
        ((1, 4, 13, 13), ("fixed", "fixed", "tokens", "tokens")),
    ],
)
def test_axes_are_told_by_their_sizes(shape: tuple[int, ...], kinds: tuple[str, ...]) -> None:
    assert TokenAxes.by_sizes(shape, 2, 13, NONE).kinds == kinds


def test_an_axis_that_could_count_something_else_is_not_guessed() -> None:
    found = TokenAxes.by_sizes((2, 13, 13), 2, 13, frozenset({13, 64}))
    assert found.kinds == ("batch", "unknown", "unknown")


def fixed(batch: int | str, tokens: int | str) -> onnx.ModelProto:
    """The tiny BERT of two layers, exported for these sizes alone."""

    class Fixed(TextModel):
        @property
        def inputs(self) -> tuple[ModelInput, ...]:
            return tuple(ModelInput(n, "int64", (batch, tokens)) for n in self.input_names)

    model = text_model()
    return export_float(
        Fixed(model.wrapper, model.backbone, None, model.input_names, model.output_names, 40)
    )


def statistics(model: onnx.ModelProto, batches: Any) -> dict[int, Any]:
    names = plan_onnx(model, Recipe()).tensors
    found = OnnxTensors(model, names).collect(batches, EVERYTHING, lambda: None)
    return dict(enumerate(found.values()))


@pytest.mark.parametrize(("batch", "tokens"), [("batch", 13), (2, "sequence"), (2, 13)])
def test_padding_enters_no_statistics_of_a_model_of_fixed_size(
    batch: int | str, tokens: int | str
) -> None:
    whole = [batch for _, batch in padded()]
    rows = {name: np.concatenate([b[name] for b in whole]) for name in whole[0]}
    pairs = tuple(
        (i, {name: array[2 * i : 2 * i + 2] for name, array in rows.items()}) for i in range(3)
    )
    found = statistics(fixed(batch, tokens), pairs)
    expected = statistics(export_float(text_model()), pairs)
    assert len(found) == len(expected) > 10
    for place, one in expected.items():
        assert found[place].count == one.count
        assert found[place].low == pytest.approx(one.low, rel=1e-4, abs=1e-5)
        assert found[place].high == pytest.approx(one.high, rel=1e-4, abs=1e-5)


def test_padding_that_cannot_be_told_from_heads_is_refused() -> None:
    """As many tokens as a head is wide: 32."""
    ids = np.random.default_rng(0).integers(5, 90, (2, 32))
    mask = np.ones_like(ids)
    batch = {"input_ids": ids, "attention_mask": mask}
    model = fixed(2, 32)
    assert statistics(model, ((0, batch),))[0].count == ids.size * 64
    mask[0, 20:] = 0
    with pytest.raises(RangeError, match=r"axis of unknown meaning.*arrays without padding"):
        statistics(model, ((0, batch),))
