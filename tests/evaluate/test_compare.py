from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.support.twin_models import FloatArray, save_adder, save_twins
from trt_int8.calibrate.texts import TokenArrays
from trt_int8.errors import GraphError
from trt_int8.evaluate.compare import FloatOutput, compare, float_outputs, primary_of, run
from trt_int8.spec.accuracy import AccuracyReport, OutputError

IDS = np.array([[3, 4, 0], [1, 0, 0]], np.int64)
PER_TOKEN = FloatOutput(rank=2, per_token=True)
ZERO = np.zeros((1, 1), np.float32)


def report(
    folder: Path,
    offsets: dict[str, FloatArray],
    ids: np.ndarray = IDS,
    mask: object = None,
    *,
    per_token: bool = True,
) -> AccuracyReport:
    full = np.ones(ids.shape[:2], np.int64)
    batch: TokenArrays = {"ids": ids, "attention_mask": full if mask is None else np.array(mask)}
    output = FloatOutput(rank=ids.ndim, per_token=per_token)
    return compare(save_twins(folder, offsets), [batch], {"y": output}, lambda: None)


def offsets(int8: object, fp16: object = 0.0) -> dict[str, FloatArray]:
    twins = {"fp32": 0.0, "fp16": fp16, "int8": int8}
    return {name: np.asarray(value, np.float32).reshape(1, -1) for name, value in twins.items()}


def int8_error(found: AccuracyReport) -> OutputError:
    return found.of("int8", "fp32")


def test_equal_twins_differ_by_nothing(tmp_path: Path) -> None:
    found = report(tmp_path, offsets(0.0))
    error = int8_error(found)
    assert (error.max_abs, error.mean_abs, error.sqnr_db) == (0.0, 0.0, math.inf)
    assert error.cosine_min == pytest.approx(1)
    assert found.cosines == (1.0, 1.0)


def test_metrics_equal_numbers_computed_by_hand(tmp_path: Path) -> None:
    # Rows (3, 4, 0) and (1, 0, 0); INT8 adds (0, 0, 5).
    error = int8_error(report(tmp_path, offsets([0, 0, 5])))
    assert error.max_abs == 5.0
    assert error.mean_abs == pytest.approx(10 / 6)
    first, second = 5 / math.sqrt(50), 1 / math.sqrt(26)
    assert error.cosine_mean == pytest.approx((first + second) / 2)
    assert error.cosine_min == pytest.approx(second)
    assert error.sqnr_db == pytest.approx(10 * math.log10(26 / 50), abs=1e-3)


def test_each_pair_is_measured_against_its_own_reference(tmp_path: Path) -> None:
    found = report(tmp_path, offsets([0, 0, 5], [0, 0, 2]))
    largest = {(p.measured, p.reference): p.outputs[0].max_abs for p in found.pairs}
    assert largest == {("fp16", "fp32"): 2.0, ("int8", "fp32"): 5.0, ("int8", "fp16"): 3.0}


def test_the_cosines_per_text_compare_int8_with_fp16(tmp_path: Path) -> None:
    found = report(tmp_path, offsets([0, 0, 5], [0, 0, 5]))
    assert found.cosines == (1.0, 1.0)
    assert (found.samples, found.primary_output) == (2, "y")


def test_padding_positions_of_token_states_do_not_count(tmp_path: Path) -> None:
    ids = np.arange(1, 19, dtype=np.int64).reshape(2, 3, 3)
    only_last = np.zeros((1, 3, 3), np.float32)
    only_last[0, 2] = 100
    twins = {"fp32": ZERO[None], "fp16": ZERO[None], "int8": only_last}
    found = report(tmp_path, twins, ids, [[1, 1, 0], [1, 1, 0]])
    assert int8_error(found).max_abs == 0.0
    assert int8_error(report(tmp_path, twins, ids)).max_abs == 100.0


def test_padding_is_cut_per_text(tmp_path: Path) -> None:
    ids = np.ones((2, 3, 5), np.int64)
    ramp = np.broadcast_to(np.array([[[1], [2], [3]]], np.float32), (1, 3, 5))
    twins = {"fp32": ZERO[None], "fp16": ZERO[None], "int8": ramp}
    error = int8_error(report(tmp_path, twins, ids, [[1, 1, 1], [1, 0, 0]]))
    assert error.mean_abs == pytest.approx((1 + 2 + 3 + 1) / 4)


def test_padding_positions_of_token_scores_do_not_count(tmp_path: Path) -> None:
    """One number per token, as in question answering: [B, S]."""
    found = report(tmp_path, offsets([0, 0, 9]), mask=[[1, 1, 0], [1, 1, 0]])
    assert int8_error(found).max_abs == 0.0


def test_an_axis_that_only_happens_to_be_as_long_as_the_text_is_not_cut(tmp_path: Path) -> None:
    """Three class scores of a text of three tokens."""
    twins = offsets([0, 0, 9])
    found = report(tmp_path, twins, mask=[[1, 1, 0], [1, 1, 0]], per_token=False)
    assert int8_error(found).max_abs == 9.0


def test_nan_in_one_twin_is_reported_in_every_number(tmp_path: Path) -> None:
    found = report(tmp_path, offsets([0, math.nan, 0]))
    error = int8_error(found)
    numbers = (error.max_abs, error.mean_abs, error.cosine_mean, error.cosine_min, error.sqnr_db)
    assert all(math.isnan(number) for number in numbers)
    assert all(math.isnan(cosine) for cosine in found.cosines)
    assert found.of("fp16", "fp32").max_abs == 0.0


def test_an_infinite_output_is_not_a_small_error(tmp_path: Path) -> None:
    error = int8_error(report(tmp_path, offsets([0, math.inf, 0])))
    assert error.max_abs == math.inf
    assert not error.cosine_mean > 0.9


def test_a_report_with_nan_survives_its_json_form(tmp_path: Path) -> None:
    found = report(tmp_path, offsets([0, math.nan, 0]))

    def refused(name: str) -> None:
        raise ValueError(f"{name} is no JSON")

    text = found.to_json()
    json.loads(text, parse_constant=refused)
    back = AccuracyReport.model_validate_json(text)
    assert math.isnan(int8_error(back).max_abs)


def test_progress_is_told_once_per_batch_and_twin(tmp_path: Path) -> None:
    twins = save_twins(tmp_path, offsets(1.0))
    batch: TokenArrays = {"ids": IDS, "attention_mask": np.ones_like(IDS)}
    told: list[int] = []
    compare(twins, [batch] * 4, {"y": PER_TOKEN}, lambda: told.append(1))
    assert len(told) == 3 * 4


def test_batches_of_different_lengths_are_all_measured(tmp_path: Path) -> None:
    twins = save_twins(tmp_path, offsets(1.0))
    batches: list[TokenArrays] = [
        {"ids": np.ones(shape, np.int64), "attention_mask": np.ones(shape, np.int64)}
        for shape in ((1, 7), (5, 3))
    ]
    assert compare(twins, batches, {"y": PER_TOKEN}, lambda: None).samples == 6


def test_batches_without_a_mask_count_in_full(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    save_adder(path, np.full((1, 1), 2, np.float32))
    model = onnx.load(str(path))
    del model.graph.input[1]
    onnx.save(model, str(path))
    assert run(path, [{"ids": IDS}], lambda: None)[0]["y"].tolist() == (IDS + 2.0).tolist()


def test_a_file_that_onnx_runtime_cannot_load_is_a_graph_error(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"\xff" * 50)
    with pytest.raises(GraphError, match=r"ONNX Runtime cannot run 'bad.onnx' \(.+\)"):
        run(tmp_path / "bad.onnx", [], lambda: None)


def test_an_unknown_operator_is_named(tmp_path: Path) -> None:
    save_adder(tmp_path / "m.onnx", ZERO)
    model = onnx.load(str(tmp_path / "m.onnx"))
    model.graph.node[1].op_type = "NoSuchOp"
    onnx.save(model, str(tmp_path / "m.onnx"))
    with pytest.raises(GraphError, match="NoSuchOp"):
        run(tmp_path / "m.onnx", [{"ids": IDS, "attention_mask": IDS}], lambda: None)


def test_an_error_without_a_text_is_still_a_graph_error(tmp_path: Path) -> None:
    save_adder(tmp_path / "m.onnx", ZERO)

    def fails() -> None:
        raise MemoryError

    with pytest.raises(GraphError, match=r"cannot run 'm\.onnx' \(MemoryError\)"):
        run(tmp_path / "m.onnx", [{"ids": IDS, "attention_mask": IDS}], fails)


def model_with_outputs(outputs: dict[str, tuple[int, int]]) -> onnx.ModelProto:
    """Outputs by name: element type and rank."""
    values = [
        helper.make_tensor_value_info(name, kind, [None] * rank)
        for name, (kind, rank) in outputs.items()
    ]
    return helper.make_model(helper.make_graph([], "g", [], values))


def test_float_outputs_are_listed_with_their_ranks() -> None:
    model = model_with_outputs({"a": (TensorProto.FLOAT, 3), "ids": (TensorProto.INT64, 2)})
    assert float_outputs(model) == {"a": FloatOutput(rank=3, per_token=False)}


@pytest.mark.parametrize(
    ("axes", "per_token"),
    [
        (["batch", "sequence"], True),
        (["B", "seq_len", 384], True),
        (["batch_size", "tokens", 2], True),
        (["batch", 384], False),
        (["batch", "hidden"], False),
        (["batch", None, 384], False),
        (["sequence"], False),
        (["batch", 3, "sequence"], False),
    ],
)
def test_an_output_per_token_is_known_by_the_name_of_its_second_axis(
    axes: list[str | int | None], per_token: bool
) -> None:
    """The usual names, and the one that the input's second axis has."""
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "tokens"])
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, axes)
    model = helper.make_model(helper.make_graph([], "g", [ids], [value]))
    assert float_outputs(model)["y"] == FloatOutput(rank=len(axes), per_token=per_token)


def test_a_model_without_float_outputs_is_refused() -> None:
    model = model_with_outputs({"ids": (TensorProto.INT64, 2)})
    with pytest.raises(GraphError, match=r"outputs \['ids'\] are not float32; wanted at least one"):
        float_outputs(model)


@pytest.mark.parametrize(
    ("outputs", "primary"),
    [
        ({"last_hidden_state": 3, "pooler_output": 2}, "pooler_output"),
        ({"logits": 2}, "logits"),
        ({"pooled": 2, "sentence_embedding": 2}, "sentence_embedding"),
        ({"start": 2, "end": 2}, "start"),
    ],
)
def test_the_primary_output_is_the_embedding_or_the_first_of_lowest_rank(
    outputs: dict[str, int], primary: str
) -> None:
    found = {name: FloatOutput(rank, per_token=False) for name, rank in outputs.items()}
    assert primary_of(found) == primary
