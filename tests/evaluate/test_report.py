from __future__ import annotations

import dataclasses
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trt_int8.evaluate.report import ReportData, grid, short_name, write_report
from trt_int8.spec.accuracy import AccuracyReport, OutputError, PairAccuracy
from trt_int8.spec.build import BuildResult, Flavour
from trt_int8.spec.coverage import EngineCoverage, NodeCoverage, ProfileCoverage
from trt_int8.spec.manifest import Verdict
from trt_int8.spec.overflow import Overflow
from trt_int8.spec.ranges import RangeTable, TensorRange
from trt_int8.spec.recipe import Recipe
from trt_int8.spec.smoothing import Smoothing


def node(name: str, **changes: Any) -> NodeCoverage:
    base = NodeCoverage(
        node=name,
        role="linear",
        wanted_int8=True,
        runs="int8",
        operands=("int8", "int8"),
        output="float",
        constant_weight=True,
        kernel="kernel_of_it",
        fused_attention=False,
        reason="",
    )
    return base.model_copy(update=changes)


def engine(*nodes: NodeCoverage, sm: int | None = 75, precision: str = "int8") -> EngineCoverage:
    return EngineCoverage.model_validate(
        {
            "sm": sm,
            "precision": precision,
            "evidence": "builder log",
            "tensorrt_version": "1.7",
            "nodes": nodes,
            "attentions": 3,
            "attentions_fused": 2,
            "attentions_int8": 1,
        }
    )


def accuracy(cosine: float = 0.98765) -> AccuracyReport:
    error = OutputError(
        output="y",
        max_abs=0.25,
        mean_abs=0.125,
        cosine_mean=cosine,
        cosine_min=0.9,
        sqnr_db=31.46,
    )
    pairs = (("fp16", "fp32"), ("int8", "fp32"), ("int8", "fp16"))
    return AccuracyReport(
        primary_output="y",
        samples=3,
        pairs=tuple(PairAccuracy(measured=m, reference=r, outputs=(error,)) for m, r in pairs),
        cosines=(cosine, 0.99, 0.97),
    )


def data(**changes: Any) -> ReportData:
    result = BuildResult(tensorrt_version="1.7", engine_bytes=12_345_678, build_seconds=3.21)
    ranges = {"tensor.a": TensorRange(amax=1.0, peak=2.0)}
    base = ReportData(
        model="my-model",
        flavour=Flavour.RTX,
        coverage=(engine(node("layer.0.q"), node("layer.0.k", runs="float", reason="because")),),
        accuracy=accuracy(),
        ranges=RangeTable(
            method="percentile:99.9",
            samples=17,
            model_sha256="0",
            data_sha256="0",
            ranges=ranges,
        ),
        verdict=Verdict(recommended="int8", failures=()),
        recipe=Recipe(name="my-recipe"),
        shapes="batch=1:8:32",
        builds={"sm75 int8": result, "local int8": result, "sm75 fp16": result},
    )
    return dataclasses.replace(base, **changes)


def page(folder: Path, **changes: Any) -> str:
    write_report(folder / "report.html", data(**changes))
    return (folder / "report.html").read_text(encoding="utf-8")


class _Loads(HTMLParser):
    """Collects everything a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        links = [v or "" for k, v in attrs if k in ("src", "href", "xlink:href", "data", "action")]
        self.found += [tag] * (tag in ("script", "link", "iframe"))
        self.found += [link for link in links if not link.startswith("#")]


def test_the_page_needs_no_other_file_and_no_network(tmp_path: Path) -> None:
    loads = _Loads()
    text = page(tmp_path)
    loads.feed(text)
    assert loads.found == []
    assert "@import" not in text
    assert re.findall(r"url\((?!#)", text) == []


def test_coverage_size_and_time_of_an_engine_are_shown(tmp_path: Path) -> None:
    text = page(tmp_path)
    for shown in ("sm75 int8", "1 of 2", "2 of 3", "12.3 MB", "3.2 s", "my-model", "my-recipe"):
        assert shown in text


def test_accuracy_of_each_pair_is_shown(tmp_path: Path) -> None:
    text = page(tmp_path)
    for shown in ("int8 / fp16", "int8 / fp32", "fp16 / fp32", "0.98765", "31.5 dB", "0.125"):
        assert shown in text


def test_what_is_not_int8_is_listed_with_its_reason(tmp_path: Path) -> None:
    text = page(tmp_path)
    assert "1 not INT8" in text
    assert "<td>layer.0.k</td>" in text
    assert "because" in text


def test_a_fully_covered_engine_lists_nothing(tmp_path: Path) -> None:
    assert "not INT8</summary>" not in page(tmp_path, coverage=(engine(node("layer.0.q")),))


def test_the_page_says_that_the_policy_is_met(tmp_path: Path) -> None:
    text = page(tmp_path)
    assert "Policy met: deploy the INT8 engines" in text
    assert "Policy not met" not in text


def test_the_page_says_what_was_missed_and_names_fp16(tmp_path: Path) -> None:
    verdict = Verdict(recommended="fp16", failures=("5 of 6 matmuls", "cosine is low"))
    text = page(tmp_path, verdict=verdict)
    assert "Policy not met: deploy the FP16 engines" in text
    assert "<li>5 of 6 matmuls</li><li>cosine is low</li>" in text


def test_names_are_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    text = page(tmp_path, model=evil, coverage=(engine(node(evil, runs="float", reason=evil)),))
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_an_engine_for_the_local_card_is_named_so(tmp_path: Path) -> None:
    text = page(tmp_path, coverage=(engine(node("q"), sm=None),))
    assert "local int8" in text
    assert "<h3>local card</h3>" in text


def test_only_int8_engines_get_a_picture(tmp_path: Path) -> None:
    twins = (engine(node("q")), engine(node("q", runs="float"), precision="fp16"))
    text = page(tmp_path, coverage=twins)
    assert text.count("<h3>SM75</h3>") == 1
    assert "sm75 fp16" in text


def test_a_model_with_its_own_qdq_has_no_ranges_section(tmp_path: Path) -> None:
    assert "<h2>Calibrated ranges</h2>" in page(tmp_path)
    assert "<h2>Calibrated ranges</h2>" not in page(tmp_path, ranges=None)


def test_the_page_says_how_many_inputs_were_smoothed(tmp_path: Path) -> None:
    ranges = data().ranges
    assert ranges is not None
    factors = {name: np.array([0.5, 2.0], np.float32) for name in ("a.input", "b.input")}
    smoothed = ranges.model_copy(update={"smoothing": Smoothing.of("auto", factors)})
    assert "Smoothed (auto): of 2 inputs of Linear layers" in page(tmp_path, ranges=smoothed)
    assert "Smoothed" not in page(tmp_path)


def test_equal_data_gives_equal_bytes(tmp_path: Path) -> None:
    assert page(tmp_path) == page(tmp_path)


def test_nan_accuracy_is_shown_as_nan(tmp_path: Path) -> None:
    nowhere = accuracy(math.nan).model_copy(update={"cosines": (math.nan,) * 3})
    text = page(tmp_path, accuracy=nowhere)
    assert '<td class="n">nan</td>' in text
    assert "NaN for 3 of 3 texts" in text


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("/encoder/layer.0/q/MatMul", "layer 0"),
        ("/encoder/layers.11/fc/MatMul", "layer 11"),
        ("h_3_attn/MatMul", "layer 3"),
        ("/pooler/dense/Gemm", "no layer"),
        ("/fc1/MatMul_2", "no layer"),
    ],
)
def test_matmuls_are_grouped_by_the_layer_in_their_name(name: str, row: str) -> None:
    assert [r.title for r in grid(engine(node(name)))] == [row]


def test_the_grid_keeps_graph_order_and_every_node() -> None:
    names = ["l.1.a", "l.0.a", "l.1.b", "pool"]
    rows = grid(engine(*(node(name) for name in names)))
    assert [row.title for row in rows] == ["layer 1", "layer 0", "no layer"]
    assert [n.node.node for row in rows for n in row.cells] == ["l.1.a", "l.1.b", "l.0.a", "pool"]


def labels(*nodes: NodeCoverage) -> list[list[str]]:
    return [[cell.label for cell in row.cells] for row in grid(engine(*nodes))]


def attention(*names: str) -> tuple[NodeCoverage, ...]:
    return tuple(node(name, role="attention") for name in names)


def test_the_matmuls_of_an_attention_are_labelled_by_what_they_compute() -> None:
    bert = ("/layer.0/self/MatMul", "/layer.0/self/MatMul_1")
    named = ("blocks.1.scores", "blocks.1.context")
    assert labels(*attention(*bert, *named)) == [["Q·Kᵀ", "P·V"]] * 2
    assert labels(*attention("MatMul_7", "MatMul_9")) == [["Q·Kᵀ", "P·V"]]


def test_two_attentions_in_one_layer_are_told_apart() -> None:
    names = [f"/layer.3/{kind}/{op}" for kind in ("self", "cross") for op in ("MatMul", "MatMul_1")]
    (row,) = labels(*attention(*names))
    assert row == ["self Q·Kᵀ", "self P·V", "cross Q·Kᵀ", "cross P·V"]


def test_an_attention_of_which_half_is_missing_keeps_its_name() -> None:
    assert labels(*attention("/layer.0/self/MatMul_1")) == [["self/MatMul_1"]]


def test_a_linear_in_an_attention_module_is_not_labelled_as_an_attention_matmul() -> None:
    assert labels(node("/layer.0/attention/self/MatMul")) == [["attention/self"]]


def test_equal_ends_of_names_get_longer_until_they_differ_and_keep_their_order() -> None:
    names = [f"/layer.2/{module}/dense/MatMul" for module in ("attention/output", "fc", "output")]
    assert labels(*map(node, names)) == [["attention/output/dense", "fc/dense", "output/dense"]]


def test_labels_leave_the_layer_out_because_the_row_names_it() -> None:
    assert labels(node("encoder.layer.0.q"), node("h_1_attn/MatMul")) == [["q"], ["attn"]]


def test_equal_labels_stand_below_each_other_whatever_the_order_of_the_graph() -> None:
    names = ["l.0.q", "l.0.k", "l.0.v", "l.1.v", "l.1.extra", "l.1.q", "l.1.k"]
    assert labels(*(node(name) for name in names)) == [["q", "k", "v"], ["q", "k", "v", "extra"]]


def test_each_engine_has_a_caption_with_its_own_numbers(tmp_path: Path) -> None:
    engines = (engine(node("l.0.q")), engine(node("l.0.q", runs="float"), sm=None))
    text = page(tmp_path, coverage=engines)
    assert ">1 of 1 matmuls run INT8; 1 of 3 attentions are one INT8 kernel" in text
    assert ">0 of 1 matmuls run INT8" in text


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("/encoder/layer.0/attention/q/MatMul", "attention/q"),
        ("encoder.layer.0.attention.k", "attention/k"),
        ("/self/MatMul_1", "self/MatMul_1"),
        ("/encoder/output/output/MatMul", "encoder/output"),
        ("MatMul", "MatMul"),
        ("out", "out"),
    ],
)
def test_a_short_name_is_the_last_two_telling_parts(name: str, short: str) -> None:
    assert short_name(name) == short


def test_each_profile_is_shown_under_its_engine(tmp_path: Path) -> None:
    part = ProfileCoverage(profile="seq 385-512", int8=1, attentions_fused=0, attentions_int8=0)
    several = engine(node("layer.0.q")).model_copy(update={"profiles": (part, part)})
    text = page(tmp_path, coverage=(several,))
    assert text.count("seq 385-512</td>") == 2
    assert "Each optimization profile has kernels of its own" in text
    assert "Each optimization profile" not in page(tmp_path)


def test_what_the_build_decided_is_shown(tmp_path: Path) -> None:
    assert "<li>split &lt;here&gt;</li>" in page(tmp_path, notes=("split <here>",))
    assert "Decided by the build" not in page(tmp_path)


def test_tensors_kept_out_of_float16_are_listed(tmp_path: Path) -> None:
    found = Overflow(tensor="big.one", peak=2e5, float_nodes=("add",), scaled_nodes=("fc",))
    text = page(tmp_path, overflow=(found,))
    for shown in ("Kept out of float16", "big.one", "2e+05", "<td>add</td>", "<td>fc</td>"):
        assert shown in text
    assert "Kept out of float16" not in page(tmp_path)
