"""The tables of docs/profiles.md: what a row says, and what a run keeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scripts import measure_profiles as script
from tests.support.quantized_attention import block_profile
from trt_int8.errors import EngineError
from trt_int8.spec.coverage import EngineCoverage, ProfileCoverage
from trt_int8.spec.shapes import DimRange

ROW: dict[str, Any] = {
    "sm": 75, "head_dim": 64, "batch": "1-3", "sequences": "16-384, 385-512", "fused": [1, 0],
    "int8": [6, 5], "engine_bytes": 2_617_916, "tensorrt_version": "1.7",
}  # fmt: skip
MINILM: dict[str, Any] = {
    "sequences": "16-128, 129-384", "fused": [6, 5], "attentions": 6, "int8": [48, 47],
    "counted": 48, "int8_bytes": 60_749_000, "fp16_bytes": 59_640_000,
}  # fmt: skip
PAGE = """before
<!-- attention:start -->
<!-- attention:end -->
between
<!-- minilm:start -->
old
<!-- minilm:end -->
after
"""


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    (tmp_path / "measured").mkdir()
    (tmp_path / "profiles.md").write_text(PAGE, encoding="utf-8")
    return tmp_path


def run(docs: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, Any]:
    """Run the script with stand-ins for the builds; the figures it wrote."""
    monkeypatch.setattr(
        script, "measure_attention", lambda case: ROW | {"sequences": case.sequences}
    )
    monkeypatch.setattr(script, "measure_minilm", lambda each: MINILM | {"sequences": each})
    monkeypatch.setattr("sys.argv", ["x", "--docs", str(docs), *arguments])
    script.main()
    figures: dict[str, Any] = json.loads((docs / "measured" / "profiles.json").read_text("utf-8"))
    return figures


def test_an_engine_says_for_each_profile_what_is_fused() -> None:
    assert script.attention_table([ROW]).splitlines()[-1] == (
        "| SM75 | 64 | 1-3 | 16-384, 385-512 | yes, no | 6, 5 | 2,617,916 |"
    )


def test_the_table_names_every_version_that_built_its_engines_once() -> None:
    newer = ROW | {"tensorrt_version": "1.8"}
    assert "TensorRT-RTX 1.7, 1.8;" in script.attention_table([ROW, ROW, newer])


@pytest.mark.parametrize(
    ("words", "cell"),
    [
        ("x (a.cpp:1: Myelin b.cpp:68: CHECK(c() == 1) failed. In d)", "`b.cpp CHECK(c() == 1)`"),
        ("no engine (a | b)", "no engine (a \\| b)"),
    ],
)
def test_a_build_that_fails_is_told_in_the_words_of_the_builder(words: str, cell: str) -> None:
    row = {key: ROW[key] for key in ("sm", "head_dim", "batch", "sequences")} | {"failed": words}
    assert script.attention_table([row]).splitlines()[-1] == (
        f"| SM75 | 64 | 1-3 | 16-384, 385-512 | the build fails: {cell} |  |  |"
    )


def test_minilm_is_told_in_attentions_matmuls_and_megabytes() -> None:
    assert script.minilm_table([MINILM]).splitlines()[-1] == (
        "| 16-128, 129-384 | 6 / 6, 5 / 6 | 48 / 48, 47 / 48 | 60.7 | 59.6 |"
    )


def test_sizes_are_read_as_ranges_or_as_one_fixed_size() -> None:
    assert script._ranges("16-384, 512") == [
        DimRange(min=16, opt=200, max=384),
        DimRange(min=512, opt=512, max=512),
    ]


def test_a_profile_of_the_block_has_its_batch_first_and_its_length_second() -> None:
    (shape,) = block_profile(DimRange(min=1, opt=2, max=3), DimRange(min=5, opt=6, max=7))
    assert (shape.min, shape.opt, shape.max) == ((1, 5, 128), (2, 6, 128), (3, 7, 128))


def test_one_profile_has_the_figures_of_the_whole_engine() -> None:
    engine = EngineCoverage(
        sm=75, precision="int8", evidence="e", tensorrt_version="1", nodes=(), attentions=1,
        attentions_fused=1, attentions_int8=1,
    )  # fmt: skip
    assert script._per_profile(engine) == {"int8": [0], "fused": [1]}


def test_several_profiles_have_figures_each_and_fused_in_float_does_not_count() -> None:
    parts = [
        ProfileCoverage(profile=f"{k}", int8=k, attentions_fused=1, attentions_int8=k - 5)
        for k in (5, 6)
    ]
    engine = EngineCoverage(
        sm=75, precision="int8", evidence="e", tensorrt_version="1", nodes=(), attentions=1,
        attentions_fused=1, attentions_int8=0, profiles=tuple(parts),
    )  # fmt: skip
    assert script._per_profile(engine) == {"int8": [5, 6], "fused": [0, 1]}


def test_a_refused_build_is_a_row_without_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(requests: dict[str, Any], *_: object) -> None:
        folder = Path(requests["block"].onnx_path).parent
        raise EngineError(f"no {folder}/x", wanted="w", todo="t")

    monkeypatch.setattr(script, "build_engines", refuse)
    row = script.measure_attention(script.Case(75, 64, "512", "2"))
    assert row == {
        "sm": 75, "head_dim": 64, "sequences": "512", "batch": "2", "failed": "no /x; wanted w; t.",
    }  # fmt: skip


def test_a_worker_that_died_is_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise EngineError("x: TensorRT's process ended with code 1", wanted="w", todo="t")

    monkeypatch.setattr(script, "build_engines", die)
    with pytest.raises(EngineError):
        script.measure_attention(script.CASES[0])


def test_both_tables_go_into_the_page_and_its_text_stays(
    docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "_why_no_minilm", lambda **_: "")
    figures = run(docs, monkeypatch)
    lines = (docs / "profiles.md").read_text("utf-8").splitlines()
    assert [lines[0], lines[-1]] == ["before", "after"]
    assert "between" in lines
    assert "old" not in lines
    assert sum(line.startswith("| SM") for line in lines) == len(script.CASES)
    assert [row["sequences"] for row in figures["minilm"]] == list(script._MINILM_SETS)


def test_without_minilm_its_old_figures_stay_and_the_reason_is_told(
    docs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = {"attention": [], "minilm": [MINILM]}
    (docs / "measured" / "profiles.json").write_text(json.dumps(old))
    figures = run(docs, monkeypatch, "--skip-minilm")
    assert figures["minilm"] == [MINILM]
    assert len(figures["attention"]) == len(script.CASES)
    assert "--skip-minilm" in capsys.readouterr().err


def test_a_missing_minilm_package_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "_MINILM", "no-such-package")
    assert "not installed" in script._why_no_minilm(skip=False)


def test_a_page_without_minilm_figures_keeps_what_it_had(
    docs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(docs, monkeypatch, "--skip-minilm")
    assert "old" in (docs / "profiles.md").read_text("utf-8").splitlines()


def test_the_committed_page_says_what_the_committed_figures_say() -> None:
    rows = json.loads((script.DOCS / "measured" / "profiles.json").read_text("utf-8"))
    page = (script.DOCS / "profiles.md").read_text("utf-8")
    assert script.attention_table(rows["attention"]) in page
    assert script.minilm_table(rows["minilm"]) in page
