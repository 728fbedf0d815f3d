from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from trt_int8.cli.run_output import json_lines, write_results
from trt_int8.errors import RequestError, SessionError
from trt_int8.runtime.text.stream import TextResult


def test_a_result_that_json_has_no_number_for_is_an_error() -> None:
    vector = np.array([1, np.nan], np.float32)
    results = [TextResult(0, vector[:1], None), TextResult(1, vector, None)]
    found = json_lines("embedding", ["a", "b"], results)
    assert json.loads(next(found))["embedding"] == [1]
    with pytest.raises(SessionError, match="NaN for text 1"):
        next(found)


def test_vectors_are_written_by_their_place_and_a_failure_leaves_nothing(tmp_path: Path) -> None:
    vectors = [TextResult(place, np.full(3, place, np.float32), None) for place in (1, 0)]
    out = tmp_path / "o.npy"
    assert write_results(out, "embedding", ["a", "b"], vectors) == 2
    assert np.load(out).tolist() == [[0, 0, 0], [1, 1, 1]]
    error = RequestError("text 1 is None", wanted="a str", todo="convert it")
    with pytest.raises(RequestError):
        write_results(out, "embedding", ["a", "b"], [vectors[1], TextResult(1, None, error)])
    assert np.load(out).tolist() == [[0, 0, 0], [1, 1, 1]]
    assert list(tmp_path.iterdir()) == [out]
