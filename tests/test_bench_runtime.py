"""The pure parts of the runtime benchmark: turns, medians, ratios, counts, tables."""

from __future__ import annotations

import gzip
import itertools
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper as make
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.bench_runtime_accuracy import cosine, read_stsb, spearman
from scripts.bench_runtime_counts import Peak, Work, count_work, least_seconds
from scripts.bench_runtime_session import fixed_batches, mixed_texts
from scripts.bench_runtime_table import markdown, peer_rows
from scripts.bench_runtime_timing import (
    Plan,
    alternately,
    ratio_spread,
    rotated,
    spread,
    time_spread,
    wait_until_idle,
)
from scripts.update_readme import runtime_table
from trt_int8.calibrate.texts import builtin_texts, read_texts


def test_every_round_gives_each_its_turn_and_starts_one_further() -> None:
    log: list[str] = []
    calls = {name: (lambda name=name: log.append(name)) for name in "ABC"}
    times = alternately(calls, Plan(rounds=4, calls=2, warm_up=1), lambda: log.append("|"))
    turns = "".join(log).split("|")[1:]
    assert [turn[0] for turn in turns] == list("ABCBCACABABC")
    assert all(turn == turn[0] * 3 for turn in turns)
    assert {name: [len(each) for each in found] for name, found in times.items()} == {
        name: [2, 2, 2, 2] for name in "ABC"
    }


def test_warm_up_calls_are_not_among_the_times() -> None:
    naps = itertools.chain([0.05], itertools.repeat(0.0))
    times = alternately(
        {"A": lambda: time.sleep(next(naps))}, Plan(rounds=1, calls=3, warm_up=1), lambda: None
    )
    assert max(times["A"][0]) < 0.05


@given(st.lists(st.integers(), max_size=7), st.integers(0, 40))
def test_rotating_keeps_every_name_and_its_neighbours(names: list[int], by: int) -> None:
    texts = [str(n) for n in names]
    found = rotated(texts, by)
    doubled = texts + texts
    assert not texts or list(found) == doubled[by % len(texts) : by % len(texts) + len(texts)]
    assert len(found) == len(texts)


def test_the_spread_is_the_median_and_the_quartiles_of_numpy() -> None:
    values = [3.0, 1.0, 4.0, 1.5, 9.0, 2.6]
    found = spread(values)
    expected = np.percentile(values, [25, 50, 75])
    assert [found.lower, found.median, found.upper] == pytest.approx(expected)


def test_one_value_is_its_own_spread() -> None:
    found = spread([7.0])
    assert (found.lower, found.median, found.upper) == (7.0, 7.0, 7.0)


def test_no_values_have_no_spread() -> None:
    with pytest.raises(ValueError, match="no values"):
        spread([])


def test_times_of_all_rounds_count_alike() -> None:
    assert time_spread([[1.0], [2.0, 3.0, 4.0, 5.0]]).median == 3.0


def test_the_ratio_is_taken_round_by_round_so_that_a_slow_spell_drops_out() -> None:
    slower = [[2.0, 2.0], [20.0, 20.0], [2.0, 2.0]]
    faster = [[1.0, 1.0], [10.0, 10.0], [1.0, 1.0]]
    found = ratio_spread(slower, faster)
    assert (found.lower, found.median, found.upper) == (2.0, 2.0, 2.0)


def test_an_outlier_within_a_turn_does_not_move_the_ratio() -> None:
    assert ratio_spread([[3.0, 3.0, 900.0]], [[2.0, 2.0, 2.0]]).median == 1.5


def test_ratios_of_different_numbers_of_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="argument 2"):
        ratio_spread([[1.0], [1.0]], [[1.0]])


def test_milliseconds_are_the_seconds_times_a_thousand_in_five_digits() -> None:
    assert spread([0.00123456789]).scaled(1e3).as_json() == {
        "median": 1.2346,
        "lower_quartile": 1.2346,
        "upper_quartile": 1.2346,
    }


def test_waiting_ends_at_once_where_nothing_spins() -> None:
    waits = [wait_until_idle() for _ in range(5)]
    assert statistics.median(waits) < 0.9


def _attention_graph(*, quantized: bool) -> onnx.ModelProto:
    """X [batch, sequence, 6] x W [6, 10], then the result times its own transpose."""
    rng = np.random.default_rng(3)
    weight = rng.integers(-9, 9, (6, 10)).astype(np.int8)
    constants = [
        onnx.numpy_helper.from_array(np.asarray(0.5, np.float32), "scale"),
        onnx.numpy_helper.from_array(np.asarray(0, np.int8), "zero"),
    ]
    nodes = []
    if quantized:
        constants.append(onnx.numpy_helper.from_array(weight, "codes"))
        nodes = [
            make.make_node("DequantizeLinear", ["codes", "scale", "zero"], ["W"]),
            make.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
            make.make_node("DequantizeLinear", ["q", "scale", "zero"], ["left"]),
        ]
    else:
        constants.append(onnx.numpy_helper.from_array(weight.astype(np.float32), "W"))
        nodes = [make.make_node("Identity", ["x"], ["left"])]
    nodes += [
        make.make_node("MatMul", ["left", "W"], ["h"]),
        make.make_node("Transpose", ["h"], ["t"], perm=[0, 2, 1]),
        make.make_node("MatMul", ["h", "t"], ["y"]),
    ]
    graph = make.make_graph(
        nodes,
        "g",
        [make.make_tensor_value_info("x", 1, ["batch", "sequence", 6])],
        [make.make_tensor_value_info("y", 1, ["batch", "sequence", "sequence"])],
        constants,
    )
    return make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=8)


def test_multiply_adds_and_bytes_of_a_float_graph_are_those_counted_by_hand() -> None:
    found = count_work(_attention_graph(quantized=False), {"batch": 3, "sequence": 5})
    # x W: 3*5 rows of 10 results with 6 products; h t: 3 matrices of 5*5 results with 10.
    assert (found.int8, found.floating) == (0, 3 * 5 * 10 * 6 + 3 * 5 * 5 * 10)
    assert found.weight_bytes == 6 * 10 * 4
    first, second = 3 * 5 * 6 + 3 * 5 * 10, 3 * 5 * 10 + 3 * 10 * 5 + 3 * 5 * 5
    assert found.activation_bytes == 4 * (first + second)


def test_only_the_matmul_with_two_quantized_operands_counts_as_int8() -> None:
    found = count_work(_attention_graph(quantized=True), {"batch": 3, "sequence": 5})
    assert (found.int8, found.floating) == (3 * 5 * 10 * 6, 3 * 5 * 5 * 10)
    assert found.weight_bytes == 6 * 10
    assert found.activation_bytes == 3 * 5 * 6 + 4 * (3 * 5 * 10) + 4 * (150 + 150 + 75)
    assert found.moved_bytes == 60 + found.activation_bytes


def test_a_matmul_with_one_quantized_operand_runs_in_float() -> None:
    model = _attention_graph(quantized=True)
    next(node for node in model.graph.node if node.op_type == "MatMul").input[0] = "x"
    assert count_work(model, {"batch": 1, "sequence": 2}).int8 == 0


def test_a_transposed_gemm_counts_the_axis_it_sums_over() -> None:
    graph = make.make_graph(
        [make.make_node("Gemm", ["a", "b"], ["y"], transA=1)],
        "g",
        [make.make_tensor_value_info("a", 1, [7, 3])],
        [make.make_tensor_value_info("y", 1, [3, 5])],
        [onnx.numpy_helper.from_array(np.ones((7, 5), np.float32), "b")],
    )
    model = make.make_model(graph, opset_imports=[make.make_opsetid("", 17)], ir_version=8)
    assert count_work(model, {}).floating == 3 * 5 * 7


def test_sizes_that_are_not_given_are_an_error() -> None:
    with pytest.raises(ValueError, match="not known"):
        count_work(_attention_graph(quantized=False), {"batch": 3})


def test_the_least_time_is_compute_or_weights_whichever_is_longer() -> None:
    peak = Peak(int8_per_s=100.0, float_per_s=10.0, bytes_per_s=5.0)
    assert least_seconds(Work(200, 30, 5, 999), peak) == 2 + 3
    assert least_seconds(Work(200, 30, 50, 999), peak) == 10


def test_cosines_are_those_of_rows_whatever_their_length() -> None:
    one = np.asarray([[1, 0], [3, 3]], np.float32)
    two = np.asarray([[5, 0], [0, 2]], np.float32)
    assert cosine(one, two) == pytest.approx([1.0, 0.5**0.5])


def test_spearman_looks_at_the_order_of_the_cosines_alone() -> None:
    first = np.asarray([[1, 0]] * 3, np.float32)
    second = np.asarray([[1, 0], [1, 1], [0, 1]], np.float32)
    rows = np.concatenate([first, second])
    assert spearman(rows, [5.0, 1.0, 0.5]) == pytest.approx(100)
    assert spearman(rows, [0.0, 1.0, 4.0]) == pytest.approx(-100)


def test_stsb_gives_all_first_sentences_then_all_second_ones(tmp_path: Path) -> None:
    (tmp_path / "stsb").mkdir()
    with gzip.open(tmp_path / "stsb" / "dev.tsv.gz", "wt", encoding="utf-8") as stream:
        stream.write("score\tsentence1\tsentence2\n1.5\ta\tb\n4\tc\td\n0\te\tf\n")
    scores, texts = read_stsb(tmp_path, limit=2)
    assert scores == [1.5, 4.0]
    assert texts.items == (("a",), ("c",), ("b",), ("d",))


def _result() -> dict[str, Any]:
    ms = {"median": 2.0, "lower_quartile": 1.9, "upper_quartile": 2.25}
    good = {"title": "one", "ms": {"B1 S32": ms}, "accuracy": {"mean_cosine": 0.98765}}
    scored = {**good, "title": "two", "accuracy": {"mean_cosine": 1, "stsb_spearman_x100": 86.5}}
    return {
        "threads": 2,
        "rounds": 9,
        "calls_per_round": 10,
        "environment": {"cpu": {"name": "A CPU", "flags": ["amx_int8"]}},
        "accuracy_on": "some sentences",
        "peers": {"one": good, "two": scored, "bad": {"title": "bad", "error": "Boom: a|b"}},
        "shapes": {"B1 S32": {"fastest": "one", "over_ort-fp32": {"two": {"median": 4.5}}}},
    }


def test_the_table_has_time_ratio_and_accuracy_of_each_peer() -> None:
    head, rows = peer_rows(_result())
    assert head == ["peer", "B1 S32", "cosine", "STS-B"]
    assert rows[0] == ["one", "2.00 (1.90-2.25)", "0.9877", ""]
    assert rows[1] == ["two", "2.00 (1.90-2.25) 4.50x", "1.0000", "86.50"]


def test_a_peer_that_does_not_run_is_in_the_table_with_its_error() -> None:
    _, rows = peer_rows(_result())
    assert rows[2] == ["bad", "Boom: a|b", "", ""]
    assert r"| bad | Boom: a\|b |  |  |" in markdown(_result())


def test_the_readme_shows_the_chosen_peers_that_ran() -> None:
    result = _result()
    result["peers"] = {"session": result["peers"]["two"], "ort-dynamic": {"error": "Boom"}}
    result["shapes"]["B1 S32"]["over_ort-fp32"] = {"session": {"median": 4.56}}
    assert runtime_table(result).splitlines()[2:] == ["| two | 2.00 (4.6x) | 86.5 |"]


def test_batches_of_one_size_keep_the_order_and_pad_to_their_longest() -> None:
    tokens = [
        {"input_ids": np.arange(1, n + 1)[None], "attention_mask": np.ones((1, n), np.int64)}
        for n in (2, 4, 3)
    ]
    longest = fixed_batches(tokens, 2, None, {"input_ids": 9})
    assert [each["input_ids"].tolist() for each in longest] == [
        [[1, 2, 9, 9], [1, 2, 3, 4]],
        [[1, 2, 3]],
    ]
    assert longest[0]["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    fixed = fixed_batches(tokens, 2, 5, {})
    assert [each["input_ids"].shape for each in fixed] == [(2, 5), (1, 5)]


def test_without_data_the_sentences_of_the_package_are_repeated() -> None:
    own = read_texts(builtin_texts()).items
    found = mixed_texts(None, len(own) + 3)
    assert found.items == (*own, *own[:3])
    assert "repeated" in found.origin


def test_the_page_says_where_and_how_it_was_measured() -> None:
    first = markdown(_result()).splitlines()[0]
    assert first.startswith("A CPU (amx_int8); median of 9 rounds of 10 calls")


def test_the_page_has_the_share_of_the_peak_and_what_sorting_gains() -> None:
    spread = {"median": 2.0, "lower_quartile": 1.5, "upper_quartile": 2.5}
    run = {"seconds": spread, "padding_share": 0.25, "largest_difference": 0.0}
    result = _result() | {
        "peaks": {"multiply_adds_per_s": {"int8": 2e12}, "read_bytes_per_s": {"cached": 4e10}},
        "share_of_peak": {
            "B1 S32": {
                "int8_multiply_adds": 3 * 10**9,
                "weight_bytes": 5 * 10**6,
                "activation_bytes": 10**6,
                "least_ms": 1.5,
                "one_share": 0.4,
            }
        },
        "overhead": {"session_over_bare": spread},
        "map": {
            "sentences": 7,
            "tokens": {"least": 2, "most": 9},
            "runs": {"unsorted 8": run | {"map_is_faster": spread}},
        },
    }
    page = markdown(result)
    assert "| B1 S32 | 3.00 | 6 | 1.50 | one 40% |" in page
    assert "2.0000 (1.5000-2.5000)" in page
    assert "| unsorted 8 | 2.00 | 25% | 0.0e+00 | 2.00x |" in page
