"""Models that read arrays: of images, of sound, of tokens, and ONNX files of fixed sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.support.architectures import ARCHITECTURES, arrays_for
from tests.support.onnx_tiny import Tiny, noise
from tests.support.tiny_folder import write_texts
from tests.support.tiny_transformers import tiny_backbone
from trt_int8.calibrate.arrays import ArrayData, ArrayFile, read_arrays
from trt_int8.errors import CalibrationError, GraphError
from trt_int8.model.inputs import ModelInput
from trt_int8.model.onnx_matmuls import find_matmuls
from trt_int8.model.source import resolve_source
from trt_int8.pipeline.calibration_data import batch_arrays
from trt_int8.pipeline.data import PreparedModel
from trt_int8.pipeline.options import BuildOptions, InputOptions
from trt_int8.pipeline.prepare import prepare
from trt_int8.pipeline.progress import SilentReporter
from trt_int8.spec.recipe import CalibrationSettings, Recipe
from trt_int8.spec.shapes import ShapeProfile, default_profile, parse_shapes


def options(model: Path, **changes: Any) -> BuildOptions:
    return BuildOptions(model=str(model), flavour="rtx").model_copy(update=changes)


def prepared(
    model: Path, calib: Path | None, reporter: SilentReporter | None = None, **changes: Any
) -> PreparedModel:
    chosen = options(model, calib=calib, **changes)
    return prepare(resolve_source(chosen.model), chosen, reporter or SilentReporter())


def saved(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def wanted(result: PreparedModel) -> tuple[int, int]:
    """MatMuls with Q/DQ, of all Linear and attention ones."""
    sites = [s for s in find_matmuls(result.int8) if s.role in ("linear", "attention")]
    return sum(site.wanted_int8 for site in sites), len(sites)


@pytest.mark.parametrize("name", ["vit", "whisper"])
def test_a_model_of_images_or_sound_is_quantized_whole(tmp_path: Path, name: str) -> None:
    calib = saved(tmp_path / "c.npz", **arrays_for(name))
    result = prepared(ARCHITECTURES[name](tmp_path / name), calib)
    assert wanted(result) == (16, 16)
    (shape,) = result.shapes
    (array,) = arrays_for(name).values()
    assert shape.min == (1, *array.shape[1:])
    assert shape.max == (32, *array.shape[1:])
    assert sum(len(batch[shape.name]) for batch in result.held_out) == len(array) // 4
    assert result.held_out[0][shape.name].dtype == np.float32


@pytest.mark.parametrize("calib", [None, "texts"])
def test_without_arrays_the_error_says_which_to_make(tmp_path: Path, calib: str | None) -> None:
    folder = ARCHITECTURES["vit"](tmp_path / "vit")
    texts = None if calib is None else write_texts(tmp_path / "t.txt")
    with pytest.raises(CalibrationError) as caught:
        prepared(folder, texts)
    assert "pixel_values float32 [samples, 3, 32, 32]" in str(caught.value)
    assert "np.savez('calib.npz', pixel_values=...)" in str(caught.value)


def test_a_model_that_is_refused_says_nothing_of_texts(tmp_path: Path) -> None:
    reporter = SilentReporter()
    with pytest.raises(CalibrationError):
        prepared(ARCHITECTURES["vit"](tmp_path / "vit"), None, reporter)
    assert reporter.notes == []


def test_of_an_encoder_decoder_the_user_is_told_what_is_built(tmp_path: Path) -> None:
    reporter = SilentReporter()
    calib = saved(tmp_path / "c.npz", **arrays_for("t5"))
    result = prepared(ARCHITECTURES["t5"](tmp_path / "t5"), calib, reporter)
    assert wanted(result) == (16, 16)
    note = "T5ForConditionalGeneration is an encoder-decoder: its encoder is taken"
    assert note in reporter.notes


def bert_folder(tmp_path: Path) -> Path:
    """Without a tokenizer."""
    tiny_backbone("Bert").save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


def amaxes(result: PreparedModel) -> dict[str, float]:
    assert result.ranges is not None
    return {name: found.amax for name, found in result.ranges.ranges.items()}


def test_the_padding_of_token_arrays_enters_no_range(tmp_path: Path) -> None:
    """Filled with another token, the padding would have other activations."""
    arrays, found = arrays_for("bert"), []
    for number, filling in enumerate((0, 77)):
        ids = np.where(arrays["attention_mask"] == 1, arrays["input_ids"], filling)
        calib = saved(tmp_path / f"{number}.npz", **arrays | {"input_ids": ids})
        found.append(amaxes(prepared(bert_folder(tmp_path), calib)))
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_without_a_mask_it_would(tmp_path: Path) -> None:
    """The test above can fail."""
    arrays, found = arrays_for("bert"), []
    for number, filling in enumerate((0, 77)):
        ids = np.where(arrays["attention_mask"] == 1, arrays["input_ids"], filling)
        calib = saved(tmp_path / f"{number}.npz", input_ids=ids)
        found.append(amaxes(prepared(bert_folder(tmp_path), calib)))
    assert found[0] != pytest.approx(found[1], rel=1e-5)


def test_the_same_arrays_have_the_same_hash_and_others_another(tmp_path: Path) -> None:
    arrays = arrays_for("bert")
    changed = {name: array.copy() for name, array in arrays.items()}
    changed["input_ids"][0, 0] += 1
    inputs = tuple(ModelInput(name, "int64", ("batch", "sequence")) for name in arrays)
    hashes = []
    for number, each in enumerate((arrays, arrays, changed)):
        given = read_arrays(saved(tmp_path / f"{number}.npz", **each))
        data, _ = batch_arrays(given, inputs, default_profile(), InputOptions(model="m"))
        hashes.append(data.sha256())
    assert hashes[0] == hashes[1] != hashes[2]


def two_inputs(batch: int | str, tokens: int | str) -> onnx.ModelProto:
    """States that a float input adds to: no tokenizer makes that."""
    tiny = Tiny()
    state = tiny.op("Gather", tiny.const("table", noise(50, 32)), "decoder_input_ids")
    summed = tiny.op("Add", state, "inputs_embeds")
    tiny.op("MatMul", summed, tiny.const("w", noise(32, 24, seed=1)), out="y")
    model = tiny.build({}, {"y": [batch, tokens, 24]})
    ids = helper.make_tensor_value_info("decoder_input_ids", TensorProto.INT64, [batch, tokens])
    embeds = helper.make_tensor_value_info("inputs_embeds", TensorProto.FLOAT, [batch, tokens, 32])
    model.graph.input.extend([ids, embeds])
    return model


def two_arrays(samples: int = 17, tokens: int = 11) -> dict[str, Any]:
    ids = np.random.default_rng(1).integers(0, 50, (samples, tokens))
    return {"decoder_input_ids": ids, "inputs_embeds": noise(samples, tokens, 32)}


@pytest.mark.parametrize(
    ("batch", "tokens"), [("batch", "sequence"), ("batch", 11), (2, "sequence"), (2, 11), (1, 11)]
)
def test_an_onnx_file_of_any_inputs_and_fixed_sizes_is_calibrated_with_arrays(
    tmp_path: Path, batch: int | str, tokens: int | str
) -> None:
    onnx.save(two_inputs(batch, tokens), str(tmp_path / "m.onnx"))
    calib = saved(tmp_path / "c.npz", **two_arrays())
    result = prepared(tmp_path / "m.onnx", calib, recipe=Recipe(calibration=settings("max")))
    assert wanted(result) == (1, 1)
    # Every fourth sample is held out; of an odd number the last batch of two is not whole.
    rows = [n for n in range(17) if n % 4 != 3]
    used = rows[: len(rows) - len(rows) % batch] if isinstance(batch, int) else rows
    table = noise(50, 32)
    summed = table[two_arrays()["decoder_input_ids"]] + two_arrays()["inputs_embeds"]
    (found,) = amaxes(result).values()
    assert found == pytest.approx(float(np.abs(summed[used]).max()), rel=1e-6)
    sizes = {len(each["inputs_embeds"]) for each in result.held_out}
    assert sizes == ({batch} if isinstance(batch, int) else {4})


def settings(method: str) -> CalibrationSettings:
    return CalibrationSettings(method=method)


def test_without_arrays_such_a_file_says_which_to_make(tmp_path: Path) -> None:
    onnx.save(two_inputs("batch", 11), str(tmp_path / "m.onnx"))
    with pytest.raises(CalibrationError) as caught:
        prepared(tmp_path / "m.onnx", None)
    assert "decoder_input_ids int64 [samples, 11]; inputs_embeds float32 [samples, 11, 32]" in str(
        caught.value
    )


def test_inputs_of_different_batches_are_refused(tmp_path: Path) -> None:
    model = two_inputs(2, 11)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(model, str(tmp_path / "m.onnx"))
    with pytest.raises(GraphError, match=r"first axes of the inputs .* are \[2, 3\]"):
        prepared(tmp_path / "m.onnx", saved(tmp_path / "c.npz", **two_arrays()))


def test_an_input_without_a_batch_is_refused(tmp_path: Path) -> None:
    model = two_inputs("batch", 11)
    model.graph.input.append(helper.make_tensor_value_info("scale", TensorProto.FLOAT, []))
    onnx.save(model, str(tmp_path / "m.onnx"))
    with pytest.raises(GraphError, match=r"input 'scale' of .* is float32 with 0 axes"):
        prepared(tmp_path / "m.onnx", saved(tmp_path / "c.npz", **two_arrays()))


def axes_of(profile: ShapeProfile) -> Any:
    image = ModelInput("pixels", "float32", ("n", None, "height", "width"))
    array = noise(8, 3, 5, 7)
    data = ArrayData((ArrayFile(Path("c.npz"), {"pixels": array}),), "c.npz")
    return batch_arrays(data, (image,), profile, InputOptions(model="m"))[1]["pixels"]


def test_axes_that_nothing_names_have_the_size_of_the_arrays() -> None:
    assert axes_of(default_profile()) == ("n", 3, 5, 7)


def test_axes_that_the_user_names_stay_dynamic() -> None:
    assert axes_of(parse_shapes("n=1:2:4,width=6:7:8")) == ("n", 3, 5, "width")


def test_padding_of_arrays_is_not_ours_to_do(tmp_path: Path) -> None:
    recipe = Recipe(calibration=CalibrationSettings(pad_to=16))
    calib = saved(tmp_path / "c.npz", **arrays_for("bert"))
    with pytest.raises(CalibrationError, match="pad_to is 16; wanted texts: arrays are used as"):
        prepared(bert_folder(tmp_path), calib, recipe=recipe)
