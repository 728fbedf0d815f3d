from __future__ import annotations

import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.support.block_bundle import make_block_bundle
from tests.support.plans import BLOCK, MATMULS, OUT, QUERY
from trt_int8.evaluate.coverage_page import (
    AFTER,
    BEFORE,
    NO_BLOCKS,
    Row,
    block_of,
    profiles_of,
    rows,
    step_of,
    write_coverage_page,
)
from trt_int8.pipeline.inspect import choose, run_inspect
from trt_int8.spec.inspection import Inspection, Kernel, KernelKind


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    return run_inspect(make_block_bundle(tmp_path_factory.mktemp("page") / "bundle"))


def page(folder: Path, inspection: Inspection, engine: str | None = None) -> str:
    write_coverage_page(folder / "p.html", inspection, choose(inspection, engine))
    return (folder / "p.html").read_text(encoding="utf-8")


class _Fetched(HTMLParser):
    """Everything a browser would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.found += [tag] * (tag in ("link", "iframe", "img", "object"))
        self.found += [key for key in ("src", "href", "xlink:href", "data") if key in known]


def text_of(text: str) -> str:
    visible = re.sub(r"<(style|script)>.*?</\1>", "", text, flags=re.S)
    return unescape(" ".join(re.sub(r"<[^>]*>", " ", visible).split()))


def kernel(family: str, *nodes: str, kind: KernelKind = "other", profile: int = 0) -> Kernel:
    return Kernel(
        name=family, family=family, kind=kind, operands=("half",), outputs=("half",),
        nodes=nodes, int8=False, profile=profile,
    )  # fmt: skip


def test_the_page_needs_no_other_file_and_no_network(tmp_path: Path, found: Inspection) -> None:
    text = page(tmp_path, found)
    assert _Fetched(text).found == []
    assert "@import" not in text
    assert re.findall(r"url\(|https?://", text) == []


def test_the_figures_of_the_engine_stand_beside_those_of_its_twin(
    tmp_path: Path, found: Inspection
) -> None:
    seen = text_of(page(tmp_path, found))
    for shown in (
        "4 / 5 matmuls run INT8",
        "1 / 1 attentions are one INT8 kernel",
        "6 kernels (FP16 twin: 6)",
        "0.02663 MB weights (FP16 twin: 0.04301)",
        "0 weights computed at run time",
        "nothing on this page was measured on a GPU",
    ):
        assert shown in seen


def test_every_kernel_is_a_block_that_tells_its_node_kernel_and_types(
    tmp_path: Path, found: Inspection
) -> None:
    text = unescape(page(tmp_path, found, "sm75/int8"))
    for node in MATMULS:
        assert node in text
    assert f"{QUERY}\nkernel {QUERY}\nmultiplies INT8 x INT8, writes FP32" in text
    assert "kernel _gemm_mha_v2\nmultiplies INT8 x INT8 x INT8, writes INT8" in text
    assert "multiplies FP16 x FP16, writes FP16\nno Q/DQ on <up>" in text


def test_blocks_are_coloured_by_what_they_multiply(found: Inspection) -> None:
    engine = found.engines[0]
    (block,) = [row for row in rows(engine, None, 0) if row.title == BLOCK]
    assert [cell.css for cell in block.cells] == [
        "gemm i8", "other i8", "attention i8", "gemm i8", "gemm f16",
    ]  # fmt: skip
    assert [cell.label for cell in block.cells][:3] == ["query", "quantize", "Q·Kᵀ → softmax → P·V"]


def test_the_twin_is_the_lower_strip_of_the_same_block(found: Inspection) -> None:
    engine, twin = found.engines
    block = next(row for row in rows(engine, twin, 0) if row.title == BLOCK)
    assert {cell.css for cell in block.twin} == {"gemm f16", "other f16", "attention f16"}
    assert len(block.twin) == len(block.cells) == 5


def test_an_int8_gemm_that_writes_half_bears_a_mark(found: Inspection) -> None:
    block = next(row for row in rows(found.engines[0], None, 0) if row.title == BLOCK)
    marked = [cell.hover.splitlines()[0] for cell in block.cells if "⚠" in cell.marks]
    assert marked == [OUT]


def test_a_weight_made_at_run_time_and_a_disputed_matmul_bear_marks(found: Inspection) -> None:
    engine = found.engines[0]
    first, *rest = engine.matmuls
    changes = {"constant_weight": False, "runs": "disputed"}
    changed = engine.model_copy(update={"matmuls": (first.model_copy(update=changes), *rest)})
    cell = next(row for row in rows(changed, None, 0) if row.title == BLOCK).cells[0]
    assert (cell.marks, cell.css) == ("↻?", "gemm no")
    assert "its weight is computed at every inference" in cell.hover


def test_fallbacks_are_listed_and_names_are_escaped(tmp_path: Path, found: Inspection) -> None:
    text = page(tmp_path, found)
    assert "1 not INT8" in text_of(text)
    assert "no Q/DQ on &lt;up&gt;" in text
    assert "<model>" not in text
    assert "<up>" not in text


def test_an_fp16_engine_by_itself_has_no_list_of_fallbacks(
    tmp_path: Path, found: Inspection
) -> None:
    seen = text_of(page(tmp_path, found, "sm75/fp16"))
    assert "0 / 5 matmuls run INT8" in seen
    assert "not INT8" not in seen


def test_the_bars_show_bytes_by_type_of_engine_and_twin(tmp_path: Path, found: Inspection) -> None:
    text = page(tmp_path, found, "sm75/int8")
    assert "INT8 weights: 0.01638 MB, 16,384 values" in text
    assert text.count('class="b"') == 4  # both graphs, the engine, its twin
    widths = [float(w) for w in re.findall(r"width: ([\d.]+)%", text)]
    assert all(0 < width <= 100 for width in widths)


def test_a_bundle_whose_engines_cannot_be_read_has_a_page_of_its_matmuls(
    tmp_path: Path, found: Inspection
) -> None:
    bare = [e.model_copy(update={"kernels": None, "weights": None}) for e in found.engines]
    text = text_of(page(tmp_path, found.model_copy(update={"engines": tuple(bare)})))
    assert "Only kernels of matmuls are known." in text
    assert "Q·Kᵀ → softmax → P·V" in text


@pytest.mark.parametrize(
    ("node", "block"),
    [
        ("/model/encoder/layer.3/attention/self/MatMul_1", "encoder/layer.3"),
        ("/encoder/layers.0/blocks.1/attn/MatMul", "encoder/layers.0/blocks.1"),
        ("/decoder/block.2/layer.1/DenseReluDense/wo/MatMul", "decoder/block.2"),
        ("/encoder/block.2/layer.0/SelfAttention/q/MatMul", "encoder/block.2"),
        ("/h.11/attn/c_attn/MatMul", "h.11"),
        ("/model/Cast_2", None),
        ("/pooler/dense/MatMul", None),
        ("MatMul_12", None),
        ("", None),
    ],
)
def test_a_block_is_the_module_path_up_to_its_number(node: str, block: str | None) -> None:
    assert block_of(node) == block


@pytest.mark.parametrize(
    ("family", "word"),
    [
        ("__myl_CastCastGathAddMeanSubMulMean", "embed"),
        ("__myl_MulCastAddMeanSubMulMeanAddSqrtDivMulRounCast", "norm"),
        ("__myl_MulAddDivErfAddMulMulMinMaxRounCast", "GELU"),
        ("__myl_MulCastMinMaxRounCastReshTran", "quantize"),
        ("__myl_ReshTranMove", "layout"),
        ("__mye123", "other"),
    ],
)
def test_a_kernel_without_a_matmul_is_named_after_its_steps(family: str, word: str) -> None:
    assert step_of(kernel(family)) == word


def test_kernels_outside_of_blocks_stand_before_within_and_after(found: Inspection) -> None:
    kernels = (
        kernel("a", "/embeddings/Gather"),
        kernel("b", "/layer.0/x/MatMul", kind="gemm"),
        kernel("mask", "/Cast"),
        kernel("c", "/layer.1/x/MatMul", "/layer.1/x/Add", "/layer.2/q"),
        kernel("d", "/pooler/Tanh"),
    )
    engine = found.engines[0].model_copy(update={"kernels": kernels})
    shown = {row.title: [cell.hover.splitlines()[0] for cell in row.cells] for row in rows(
        engine, None, 0
    )}  # fmt: skip
    assert shown == {
        BEFORE: ["/embeddings/Gather"],
        "layer.0": ["/layer.0/x/MatMul", "/Cast"],
        "layer.1": ["/layer.1/x/MatMul"],
        AFTER: ["/pooler/Tanh"],
    }


def test_parts_of_a_split_projection_keep_its_name(found: Inspection) -> None:
    nodes = ("/h.0/attn/c_attn/Gemm.1", "/h.0/attn/c_attn/Gemm.0")
    matmuls = tuple(found.engines[0].matmuls[0].model_copy(update={"node": n}) for n in nodes)
    changes = {"kernels": (kernel("g", *nodes, kind="gemm"),), "matmuls": matmuls}
    (row,) = rows(found.engines[0].model_copy(update=changes), None, 0)
    assert [cell.label for cell in row.cells] == ["c_attn/1 + c_attn/0"]


def test_a_model_without_numbered_blocks_is_one_row(found: Inspection) -> None:
    kernels = (kernel("a", "x"), kernel("b", "fc", kind="gemm"))
    engine = found.engines[0].model_copy(update={"kernels": kernels})
    assert [(row.title, len(row.cells)) for row in rows(engine, None, 0)] == [(NO_BLOCKS, 2)]


def test_each_profile_has_a_picture_of_its_own(tmp_path: Path, found: Inspection) -> None:
    own = found.engines[0].kernels or ()
    more = tuple(k.model_copy(update={"profile": 1}) for k in own[:2])
    engine = found.engines[0].model_copy(update={"kernels": own + more})
    assert profiles_of(engine) == (0, 1)
    counts = [sum(len(row.cells) for row in rows(engine, None, p)) for p in (0, 1)]
    assert counts == [6, 2]
    changed = found.model_copy(update={"engines": (engine, found.engines[1])})
    assert "profile 1" in text_of(page(tmp_path, changed))


def test_every_kernel_is_in_exactly_one_row(found: Inspection) -> None:
    shown: tuple[Row, ...] = rows(found.engines[0], None, 0)
    assert sum(len(row.cells) for row in shown) == len(found.engines[0].kernels or ())


def test_equal_inspections_give_equal_bytes(tmp_path: Path, found: Inspection) -> None:
    assert page(tmp_path, found) == page(tmp_path, found)
    assert page(tmp_path, found) != page(tmp_path, found, "sm75/fp16")
