"""Calibration data as `.npz` files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_int8.calibrate.arrays import (
    ArrayData,
    ArrayFile,
    array_batches,
    check_arrays,
    holds_arrays,
    how_to_make,
    read_arrays,
    split_arrays,
)
from trt_int8.errors import CalibrationError
from trt_int8.model.inputs import ModelInput

IMAGE = ModelInput("pixels", "float32", ("batch", 3, 5, 7))
IDS = ModelInput("input_ids", "int64", ("batch", "sequence"))
MASK = ModelInput("attention_mask", "int64", ("batch", "sequence"))
FIXED = ModelInput("pixels", "float32", (4, 3))


def images(samples: int = 9) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((samples, 3, 5, 7)).astype(np.float32)


def saved(folder: Path, name: str = "calib.npz", **arrays: Any) -> Path:
    folder.mkdir(exist_ok=True)
    np.savez(folder / name, **arrays)
    return folder / name


def of(**arrays: Any) -> ArrayData:
    return ArrayData((ArrayFile(Path("calib.npz"), arrays),), "calib.npz")


def tokens(samples: int = 9) -> dict[str, np.ndarray]:
    ids = np.arange(samples * 4).reshape(samples, 4)
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def test_a_file_gives_back_its_arrays(tmp_path: Path) -> None:
    data = read_arrays(saved(tmp_path, pixels=images(), more=np.arange(9)))
    assert data.names == {"pixels", "more"}
    np.testing.assert_array_equal(data.files[0].arrays["pixels"], images())


def test_a_folder_gives_its_files_by_name(tmp_path: Path) -> None:
    for name in ("b.npz", "a.npz"):
        saved(tmp_path, name, x=np.full((2, 3), ord(name[0])))
    (tmp_path / "notes.txt").write_text("not data", encoding="utf-8")
    assert [file.path.name for file in read_arrays(tmp_path).files] == ["a.npz", "b.npz"]


@pytest.mark.parametrize(
    ("name", "found"), [("a.npz", True), ("a.NPZ", True), ("a.txt", False), ("npz", False)]
)
def test_arrays_are_told_from_texts_by_the_name(name: str, found: bool) -> None:
    assert holds_arrays(Path(name)) is found


def test_a_folder_without_arrays_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"has no \.npz file"):
        read_arrays(tmp_path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"none\.npz' cannot be read"):
        read_arrays(tmp_path / "none.npz")


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 cut"])
def test_a_file_that_is_no_npz_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(CalibrationError, match=r"cannot be read .*wanted an \.npz file of plain"):
        read_arrays(tmp_path / "x.npz")


def test_a_cut_file_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, pixels=images())
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CalibrationError, match="cannot be read"):
        read_arrays(path)


def test_one_flipped_bit_is_noticed(tmp_path: Path) -> None:
    path = saved(tmp_path, pixels=images())
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(CalibrationError, match="cannot be read"):
        read_arrays(path)


def test_a_single_array_renamed_to_npz_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", images())
    (tmp_path / "x.npy").rename(tmp_path / "x.npz")
    with pytest.raises(CalibrationError, match="one array without a name"):
        read_arrays(tmp_path / "x.npz")


def test_a_text_file_is_not_said_to_hold_objects(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_text("hello", encoding="utf-8")
    with pytest.raises(CalibrationError, match=r"it is no \.npz file"):
        read_arrays(tmp_path / "x.npz")


class Program:
    """What a pickle could do to whoever reads it."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.target, "it ran")


def test_python_objects_are_refused_and_never_run(tmp_path: Path) -> None:
    path = saved(tmp_path, x=np.array([Program(tmp_path / "proof")], dtype=object))
    with pytest.raises(CalibrationError, match="holds Python objects"):
        read_arrays(path)
    assert not (tmp_path / "proof").exists()


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="holds no array"):
        read_arrays(saved(tmp_path))


def test_good_arrays_pass() -> None:
    check_arrays(of(pixels=images()), (IMAGE,))
    check_arrays(of(**tokens()), (IDS, MASK))


def test_a_missing_array_is_named_with_all_that_is_wanted() -> None:
    wanted = r"input_ids int64 \[samples, sequence\]; attention_mask int64 \[samples, sequence\]"
    with pytest.raises(CalibrationError, match=rf"lacks the array 'attention_mask'.*{wanted}"):
        check_arrays(of(input_ids=tokens()["input_ids"]), (IDS, MASK))


def test_an_array_too_many_is_named() -> None:
    with pytest.raises(CalibrationError, match="holds the array 'labels'"):
        check_arrays(of(**tokens(), labels=np.zeros(9)), (IDS, MASK))


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (images()[0], r"has 3 axes, \[3, 5, 7\]"),
        (images().astype(np.float64), r"is float64; .*\.astype\(np\.float32\)"),
        (images().astype(np.uint8), r"is uint8; "),
        (images().astype(np.int64), r"is int64; "),
        (images()[:, :2], r"axis 1 has the size 2; .*bring axis 1 to 3"),
        (images()[:, :, :, :0], r"axis 3 has the size 0"),
        (images()[:0], r"axis 0 has the size 0"),
        (images()[:7], r"has 7 samples; wanted at least 8"),
        (np.zeros_like(images()), r"all samples of 'calib.npz' are the same"),
    ],
)
def test_an_array_that_does_not_fit_is_refused(array: np.ndarray, said: str) -> None:
    with pytest.raises(CalibrationError, match=said):
        check_arrays(of(pixels=array), (IMAGE,))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_no_number_is_refused_with_its_place(value: float) -> None:
    array = images()
    array[5, 2, 0, 6] = value
    with pytest.raises(CalibrationError, match=r"NaN or infinity at \[5, 2, 0, 6\]"):
        check_arrays(of(pixels=array), (IMAGE,))


def test_different_numbers_of_samples_are_refused() -> None:
    arrays = tokens() | {"attention_mask": np.ones((8, 4), np.int64)}
    with pytest.raises(CalibrationError, match="'samples' has the size 9 in 'input_ids' and 8 in"):
        check_arrays(of(**arrays), (IDS, MASK))


def test_axes_of_one_name_are_as_long_in_each_array() -> None:
    arrays = tokens() | {"attention_mask": np.ones((9, 5), np.int64)}
    with pytest.raises(CalibrationError, match="'sequence' has the size 4 in 'input_ids' and 5"):
        check_arrays(of(**arrays), (IDS, MASK))


def test_a_mask_of_other_numbers_is_refused() -> None:
    arrays = tokens()
    arrays["attention_mask"][2, 1] = 255
    with pytest.raises(CalibrationError, match=r"'attention_mask' .* holds 255; wanted 1 for real"):
        check_arrays(of(**arrays), (IDS, MASK))


def test_a_sample_of_padding_alone_is_refused() -> None:
    arrays = tokens()
    arrays["attention_mask"][6] = 0
    with pytest.raises(CalibrationError, match="is 0 everywhere in sample 6"):
        check_arrays(of(**arrays), (IDS, MASK))


def test_a_model_of_a_fixed_batch_wants_a_held_out_batch_too() -> None:
    rows = np.arange(45, dtype=np.float32).reshape(15, 3)
    with pytest.raises(CalibrationError, match=r"15 samples; wanted at least 16 \(the model takes"):
        check_arrays(of(pixels=rows), (FIXED,))
    check_arrays(of(pixels=np.vstack([rows, rows[:1]])), (FIXED,))


def test_a_fixed_batch_is_no_limit_on_the_samples() -> None:
    check_arrays(of(pixels=np.arange(51, dtype=np.float32).reshape(17, 3)), (FIXED,))


def test_names_that_are_no_python_names_can_be_copied_too(tmp_path: Path) -> None:
    line = how_to_make((ModelInput("a:0", "int64", ("n", 2)), IDS))
    assert line == "np.savez('calib.npz', **{'a:0': ..., 'input_ids': ...})"
    runnable = line.replace("...", "np.zeros(2)").replace("calib.npz", str(tmp_path / "c.npz"))
    eval(runnable, {"np": np})
    assert read_arrays(tmp_path / "c.npz").names == {"a:0", "input_ids"}


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    batch=st.integers(1, 9),
    limit=st.integers(1, 50),
    whole=st.booleans(),
)
def test_every_fourth_sample_is_held_out_and_none_is_lost_doubled_or_moved(
    sizes: list[int], batch: int, limit: int, whole: bool
) -> None:
    numbers = np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1])
    files = tuple(ArrayFile(Path(str(i)), {"x": part}) for i, part in enumerate(numbers))
    used, held = split_arrays(ArrayData(files, "x"), limit)
    everything = np.arange(sum(sizes))
    wanted = {"used": everything[everything % 4 != 3][:limit], "held": everything[3::4]}
    for name, part in (("used", used), ("held", held)):
        found = np.concatenate([file.arrays["x"] for file in part.files])
        np.testing.assert_array_equal(found, wanted[name])
        batches = [b["x"] for b in array_batches(part, batch, whole=whole)]
        if whole:
            assert {len(b) for b in batches} <= {batch}
            full = sum(len(file.arrays["x"]) // batch for file in part.files)
            assert len(batches) == full
        else:
            rows = np.concatenate([*batches, np.zeros(0, np.int64)])
            np.testing.assert_array_equal(rows, wanted[name])
            assert all(1 <= len(b) <= batch for b in batches)
