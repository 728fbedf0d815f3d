from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence

import numpy as np
import onnx
import pytest
import torch

from tests.support.collected import EVERYTHING
from tests.support.onnx_tiny import Tiny, run_ort
from tests.support.ragged import LENGTHS, padded, same_length
from tests.support.range_models import halver_onnx, ids
from tests.support.same_statistics import assert_all_same
from tests.support.tiny_transformers import text_model
from trt_int8.annotate.onnx_model import plan_onnx
from trt_int8.calibrate import onnx_statistics
from trt_int8.calibrate.collector import Statistics, merge_statistics
from trt_int8.calibrate.onnx_statistics import OnnxTensors
from trt_int8.calibrate.statistics import Needs
from trt_int8.calibrate.texts import TokenArrays
from trt_int8.errors import GraphError, RangeError
from trt_int8.graph.export import export_float
from trt_int8.graph.normalize import normalize
from trt_int8.spec.recipe import Recipe

BATCHES = [ids([4, 30], [8, 2]), ids([1, 3, 5])]
HEADS, HIDDEN, WIDE = 2, 64, 80


def nothing() -> None:
    """Progress that nobody watches."""


def collect(
    batches: Sequence[TokenArrays] = BATCHES,
    needs: Needs = EVERYTHING,
    advance: Callable[[], None] = nothing,
    model: onnx.ModelProto | None = None,
) -> Statistics:
    tensors = OnnxTensors(model or halver_onnx(), ("half", "shifted"))
    return tensors.collect(tuple(enumerate(batches)), needs, advance)


@pytest.fixture(scope="module")
def bert() -> OnnxTensors:
    graph = normalize(export_float(text_model()))
    return OnnxTensors(graph, plan_onnx(graph, Recipe()).tensors)


def test_inner_tensors_and_outputs_get_the_statistics_of_their_values() -> None:
    found = collect()
    assert {name: (s.low, s.high, s.count) for name, s in found.items()} == {
        "half": (0.5, 15.0, 7),
        "shifted": (-9.5, 5.0, 7),
    }
    assert found["half"].batches == {0: (1.0, 15.0), 1: (0.5, 2.5)}


def test_the_values_are_those_onnx_runtime_computes_for_the_tensor(bert: OnnxTensors) -> None:
    name = bert._tensors[-1]
    model = onnx.ModelProto()
    model.CopyFrom(bert._model)
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    ((_, batch),) = same_length((9,))
    (expected,) = run_ort(model, dict(batch))
    found = bert.collect(((0, batch),), EVERYTHING, nothing)[name]
    assert found.count == expected.size
    assert found.low == pytest.approx(float(expected.min()), rel=1e-4)
    assert found.high == pytest.approx(float(expected.max()), rel=1e-4)


def test_batches_keep_the_numbers_they_are_given() -> None:
    tensors = OnnxTensors(halver_onnx(), ("half",))
    found = tensors.collect(((9, BATCHES[1]), (4, BATCHES[0])), EVERYTHING, nothing)
    assert found["half"].batches == {4: (1.0, 15.0), 9: (0.5, 2.5)}


def test_only_what_is_needed_is_kept() -> None:
    found = collect(needs=Needs(histogram=False))["half"]
    assert (found.histogram, found.rows) == (None, None)


def test_no_batches_give_no_statistics() -> None:
    assert collect([]) == {}


def test_the_model_is_left_as_it_was() -> None:
    model = halver_onnx()
    before = model.SerializeToString()
    collect(model=model)
    assert model.SerializeToString() == before


def test_progress_is_told_once_per_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_statistics, "_BYTES_AT_ONCE", 1)
    ticks: list[int] = []
    collect(advance=lambda: ticks.append(1))
    assert len(ticks) == 2


def test_infinity_is_refused_by_name() -> None:
    model = halver_onnx()
    model.graph.initializer[0].float_data[0] = np.inf
    with pytest.raises(RangeError, match="tensor 'half' holds NaN or infinity"):
        collect(model=model)


def test_inputs_of_a_wrong_type_are_refused() -> None:
    batch = {"ids": np.ones((1, 3), np.int32)}
    with pytest.raises(GraphError, match=r"ONNX Runtime cannot run the model \(.*int32"):
        collect([batch])  # type: ignore[list-item]


def test_an_input_that_is_missing_is_refused() -> None:
    batch = {"tokens": np.ones((1, 3), np.int64)}
    with pytest.raises(GraphError, match=r"ONNX Runtime cannot run the model \(.*ids"):
        collect([batch])


def test_a_graph_that_onnx_runtime_cannot_load_is_refused() -> None:
    model = halver_onnx()
    model.graph.node[1].op_type = "NoSuchOperator"
    with pytest.raises(GraphError, match=r"ONNX Runtime cannot run the model \(.*NoSuchOperator"):
        collect(model=model)


def test_an_error_of_the_progress_display_is_not_blamed_on_the_model() -> None:
    def broken() -> None:
        raise ValueError("display")

    with pytest.raises(ValueError, match=r"^display$"):
        collect(advance=broken)


def masked_onnx(*, length: int = 0) -> onnx.ModelProto:
    """`half` is ids / 2, and NaN where the mask is 0; with `length`, no other length runs."""
    tiny = Tiny()
    real = tiny.op("Cast", "ids", to=onnx.TensorProto.FLOAT)
    keep = tiny.op("Cast", "attention_mask", to=onnx.TensorProto.BOOL)
    halved = tiny.op("Mul", real, tiny.const("factor", 0.5))
    half = tiny.op("Where", keep, halved, tiny.const("nan", np.float32(np.nan)), out="half")
    table = tiny.const("table", np.ones((1, length), np.float32)) if length else ""
    tiny.op("Add", half, table, out="y") if length else tiny.op("Neg", half, out="y")
    model = tiny.build({}, {"y": ["batch", "seq"]})
    for name in ("ids", "attention_mask"):
        info = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.INT64, ["batch", "seq"])
        model.graph.input.append(info)
    return model


def test_padding_does_not_enter() -> None:
    batch = {
        "ids": np.array([[4, 6, 99], [8, 99, 99]]),
        "attention_mask": np.array([[1, 1, 0], [1, 0, 0]]),
    }
    found = OnnxTensors(masked_onnx(), ("half",)).collect(((0, batch),), EVERYTHING, nothing)
    assert (found["half"].count, found["half"].low, found["half"].high) == (3, 2.0, 4.0)


def test_a_graph_that_cannot_be_probed_is_calibrated_without_padding_and_refused_with_it() -> None:
    tensors = OnnxTensors(masked_onnx(length=9), ("half",))
    batch = {"ids": np.arange(18).reshape(2, 9), "attention_mask": np.ones((2, 9), np.int64)}
    assert tensors.collect(((0, batch),), EVERYTHING, nothing)["half"].count == 18
    batch["attention_mask"][1, 5:] = 0
    with pytest.raises(RangeError, match=r"tensor 'half' of shape \[2, 9\] has an axis of unknown"):
        tensors.collect(((0, batch),), EVERYTHING, nothing)


def test_padding_changes_nothing_but_the_rounding_of_a_transformer(bert: OnnxTensors) -> None:
    alone = bert.collect(same_length(), EVERYTHING, nothing)
    filled = bert.collect(padded(), EVERYTHING, nothing)
    assert set(filled) == set(alone) == set(bert._tensors)
    for name, expected in alone.items():
        found = filled[name]
        assert found.count == expected.count, name
        assert found.low == pytest.approx(expected.low, rel=1e-4, abs=1e-5), name
        assert found.high == pytest.approx(expected.high, rel=1e-4, abs=1e-5), name


def test_the_counts_of_a_padded_transformer_are_those_of_its_tokens(bert: OnnxTensors) -> None:
    counts = [each.count for each in bert.collect(padded(), EVERYTHING, nothing).values()]
    tokens, pairs = sum(LENGTHS), sum(length**2 for length in LENGTHS)
    assert counts.count(HEADS * pairs) == 2  # one softmax per layer
    assert counts.count(tokens * WIDE) == 2  # one wide input per layer
    assert set(counts) == {HEADS * pairs, tokens * WIDE, tokens * HIDDEN}


def test_without_the_mask_padding_would_be_seen(bert: OnnxTensors) -> None:
    """The tests above can fail."""
    blind = [
        (number, batch | {"attention_mask": np.ones_like(batch["attention_mask"])})
        for number, batch in padded()
    ]
    alone = bert.collect(same_length(), EVERYTHING, nothing)
    filled = bert.collect(tuple(blind), EVERYTHING, nothing)
    assert all(filled[name].count != alone[name].count for name in alone)


@pytest.mark.parametrize("batches", [same_length(), padded()], ids=["one length", "padded"])
def test_shards_in_any_order_merge_to_one_run_bit_for_bit(
    bert: OnnxTensors, batches: tuple[tuple[int, TokenArrays], ...]
) -> None:
    merged: Statistics = {}
    for part in (batches[2:], batches[1:2], batches[:1]):
        merge_statistics(merged, bert.collect(tuple(reversed(part)), EVERYTHING, nothing))
    assert_all_same(merged, bert.collect(batches, EVERYTHING, nothing))


def _per_token(width: int) -> int:
    """Channels per token: attention operands have one row per head."""
    return HEADS * width if width == HIDDEN // HEADS else width


@pytest.mark.parametrize("texts_at_once", [0, 1, 3])
def test_a_batch_too_large_for_the_memory_set_aside_is_run_in_parts(
    bert: OnnxTensors, monkeypatch: pytest.MonkeyPatch, texts_at_once: int
) -> None:
    whole = bert.collect(padded(), EVERYTHING, nothing)
    # Float32 values of one text: 13 tokens with their channels, or 13 x 13 weights of each head.
    widths = [each.channels.shape[1] for each in whole.values() if each.channels is not None]
    softmaxes = len(whole) - len(widths)
    text_bytes = 4 * (13 * sum(_per_token(width) for width in widths) + HEADS * 13**2 * softmaxes)
    monkeypatch.setattr(onnx_statistics, "_BYTES_AT_ONCE", texts_at_once * text_bytes)
    runs: list[int] = []
    run = onnx_statistics._Run.__call__

    def counted(self: onnx_statistics._Run, batch: TokenArrays) -> object:
        runs.append(len(batch["input_ids"]))
        return run(self, batch)

    monkeypatch.setattr(onnx_statistics._Run, "__call__", counted)
    parts = bert.collect(padded(), EVERYTHING, nothing)
    # Six texts in batches of four; the first two runs are the probes.
    assert runs[2:] == {0: [1] * 6, 1: [1] * 6, 3: [3, 1, 2]}[texts_at_once]
    for name, expected in whole.items():
        assert parts[name].count == expected.count
        assert parts[name].low == pytest.approx(expected.low, rel=1e-4, abs=1e-5)
        assert parts[name].high == pytest.approx(expected.high, rel=1e-4, abs=1e-5)
        assert list(parts[name].batches) == list(expected.batches)


def test_a_pickled_copy_finds_the_same(bert: OnnxTensors) -> None:
    """As a worker on another machine gets it."""
    batches = same_length((3, 5))
    found = pickle.loads(pickle.dumps(bert)).collect(batches, EVERYTHING, nothing)
    assert_all_same(found, bert.collect(batches, EVERYTHING, nothing))


def test_the_session_has_as_many_threads_as_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that every machine of a cluster adds in the same order."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        session = onnx_statistics._session_with_outputs(halver_onnx(), ("half",))
    finally:
        torch.set_num_threads(before)
    assert session.get_session_options().intra_op_num_threads == 3
