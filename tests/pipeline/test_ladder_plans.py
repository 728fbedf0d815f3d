"""What each rung of the placement ladder really builds, read from engines for T4 and A100."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest

from tests.support.attention_block import build, coverage_of, evidence_of, request_for
from tests.support.blocks import encoder, packed
from tests.support.tiny_transformers import text_model
from trt_int8.annotate.guard import AttentionGuard
from trt_int8.annotate.onnx_model import plan_onnx
from trt_int8.engine.evidence import EngineLayer
from trt_int8.graph.export import export_float
from trt_int8.graph.half import to_half
from trt_int8.graph.insert import insert_qdq
from trt_int8.graph.packed import split_packed
from trt_int8.spec.build import BuildRequest
from trt_int8.spec.coverage import EngineCoverage
from trt_int8.spec.ranges import TensorRange
from trt_int8.spec.recipe import load_recipe
from trt_int8.spec.shapes import InputShape

SMS = (75, 80)
# The upper rungs on the second card are the same story again.
ALSO_SLOW = (75, pytest.param(80, marks=pytest.mark.slow))
GUARD = AttentionGuard(SMS, 64)
TOKENS = ("input_ids", "attention_mask")
FFN = {"0.up", "0.down"}
LINEARS = FFN | {"0.q", "0.k", "0.v", "0.o", "head"}
BMMS = {"0.scores", "0.context"}
RUNGS = {
    "ffn": FFN,
    "linear": LINEARS,
    "linear+attention": LINEARS | BMMS,
    "full": LINEARS | BMMS,
}


@dataclass(frozen=True)
class Built:
    """What is known of an engine."""

    coverage: EngineCoverage
    layers: tuple[EngineLayer, ...]

    @property
    def int8(self) -> set[str]:
        return {node.node for node in self.coverage.nodes if node.runs == "int8"}

    def kernels(self, part: str) -> list[tuple[str, ...]]:
        """Output types of the kernels whose name has this part, in order."""
        return [tuple(sorted(t.dtype for t in x.outputs)) for x in self.layers if part in x.name]


def quantized(model: onnx.ModelProto, name: str, *, embeddings: bool = False) -> onnx.ModelProto:
    recipe = load_recipe(name).model_copy(update={"embeddings": embeddings})
    plan = plan_onnx(model, recipe, GUARD)
    ranges = {t: TensorRange(amax=4.0, peak=4.0) for t in plan.tensors}
    return to_half(insert_qdq(model, plan, ranges))


def model_of(name: str) -> onnx.ModelProto:
    if name == "ft3":
        return quantized(encoder("post", 1, bias=True), name)
    if name == "wide heads":
        return quantized(encoder("post", 1, head_dim=48), "linear+attention")
    if name == "packed":
        return quantized(packed("reshape+gather"), "linear+attention")
    if name == "cut":
        return quantized(split_packed(packed("reshape+gather")), "linear+attention")
    if name.endswith("tables"):
        bert = export_float(text_model("Bert", num_hidden_layers=1))
        return quantized(bert, "full", embeddings=name == "int8 tables")
    return quantized(encoder("post", 1), name)


def request(folder: Path, name: str, model: onnx.ModelProto, sm: int) -> BuildRequest:
    path = folder / f"{name.replace(' ', '_')}.onnx"
    onnx.save(model, str(path))
    axes = {v.name: len(v.type.tensor_type.shape.dim) for v in model.graph.input}
    profile = tuple(_shape(name, rank) for name, rank in axes.items())
    return request_for(path, sm).model_copy(update={"profiles": (profile,)})


def _shape(name: str, rank: int) -> InputShape:
    if name == "bias":
        return InputShape(name=name, min=(1, 1, 16, 16), opt=(1, 1, 32, 32), max=(1, 1, 64, 64))
    last = () if rank == len(TOKENS) else (64,)
    sizes = ((1, 16), (2, 32), (2, 64)) if last else ((1, 16), (2, 32), (2, 40))
    low, opt, high = ((*size, *last) for size in sizes)
    return InputShape(name=name, min=low, opt=opt, max=high)


class Engines:
    """Engines by model and card, each built when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._built: dict[tuple[str, int], Built] = {}

    def __getitem__(self, key: tuple[str, int]) -> Built:
        if key not in self._built:
            wanted = request(self._folder, key[0], model_of(key[0]), key[1])
            build({key[0]: wanted})
            self._built[key] = Built(coverage_of(wanted), evidence_of(wanted).layers)
        return self._built[key]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Engines:
    return Engines(tmp_path_factory.mktemp("ladder"))


@pytest.mark.parametrize("sm", SMS)
@pytest.mark.parametrize("name", RUNGS)
def test_each_rung_runs_int8_what_it_says_and_nothing_else(
    engines: Engines, name: str, sm: int
) -> None:
    assert engines[name, sm].int8 == RUNGS[name]


@pytest.mark.parametrize("sm", SMS)
@pytest.mark.parametrize("name", RUNGS)
def test_attention_is_one_kernel_on_every_rung(engines: Engines, name: str, sm: int) -> None:
    coverage = engines[name, sm].coverage
    assert coverage.attentions_fused == 1
    assert coverage.attentions_int8 == (0 if name in ("ffn", "linear") else 1)


@pytest.mark.parametrize("sm", SMS)
@pytest.mark.parametrize("name", RUNGS)
def test_no_weight_is_quantized_at_run_time(engines: Engines, name: str, sm: int) -> None:
    nodes = [n for n in engines[name, sm].coverage.nodes if n.node in RUNGS[name] - BMMS]
    assert nodes
    assert all(n.constant_weight and n.operands == ("int8", "int8") for n in nodes)


@pytest.mark.parametrize("sm", SMS)
def test_full_makes_residual_sum_norm_and_rounding_one_kernel(engines: Engines, sm: int) -> None:
    norms = engines["full", sm].kernels("MeanSub")
    assert norms == [("int8",)] * 3
    # Without it each norm that a skip arm reads also stores a float copy.
    others = engines["linear+attention", sm].kernels("MeanSub")
    assert others == [("half", "int8"), ("half", "int8"), ("int8",)]


@pytest.mark.parametrize("sm", ALSO_SLOW)
def test_ft2_has_int8_gemm_outputs_and_others_have_not(engines: Engines, sm: int) -> None:
    def outputs(name: str) -> dict[str, str]:
        return {n.node: n.output for n in engines[name, sm].coverage.nodes if n.role == "linear"}

    assert engines["ft2", sm].int8 == LINEARS | BMMS
    layers = LINEARS - {"head"}
    assert {outputs("ft2")[name] for name in layers} == {"int8"}
    assert "int8" not in {outputs("full")[name] for name in layers}


@pytest.mark.parametrize("sm", ALSO_SLOW)
def test_q_k_and_v_stay_one_gemm_on_ft2(engines: Engines, sm: int) -> None:
    kernels = {n.node: n.kernel for n in engines["ft2", sm].coverage.nodes}
    assert kernels["0.q"] == kernels["0.k"] == kernels["0.v"] != kernels["0.o"]


@pytest.mark.parametrize("sm", ALSO_SLOW)
def test_rounding_the_masked_scores_leaves_attention_one_kernel(engines: Engines, sm: int) -> None:
    assert engines["ft3", sm].int8 == LINEARS | BMMS
    assert engines["ft3", sm].coverage.attentions_int8 == 1


@pytest.mark.parametrize("sm", SMS)
def test_attention_with_heads_of_48_stays_one_fp16_kernel(engines: Engines, sm: int) -> None:
    built = engines["wide heads", sm]
    assert built.int8 == LINEARS
    assert (built.coverage.attentions_fused, built.coverage.attentions_int8) == (1, 0)


@pytest.mark.parametrize("sm", SMS)
def test_a_packed_linear_runs_int8_only_when_it_is_cut(engines: Engines, sm: int) -> None:
    assert engines["packed", sm].int8 == {"a.scores", "a.context", "o"}
    cut = engines["cut", sm]
    assert cut.int8 == {"qkv.0", "qkv.1", "qkv.2", "a.scores", "a.context", "o"}
    kernels = {n.kernel for n in cut.coverage.nodes if n.node.startswith("qkv")}
    assert len(kernels) == 1


def test_tables_are_int8_in_the_engine_when_asked(engines: Engines) -> None:
    def tables(name: str) -> list[str]:
        layers = [x for x in engines[name, 75].layers if "Gath" in x.name]
        return sorted(t.dtype for layer in layers for t in layer.constants if t.dtype == "int8")

    assert tables("int8 tables") == ["int8"] * 3
    assert tables("tables") == []
