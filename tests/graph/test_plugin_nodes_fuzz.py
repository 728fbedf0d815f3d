"""Whatever the graph: fusing changes no bit, and inlining gives back what was there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.architectures import ARCHITECTURES, arrays_for
from tests.support.graph_generator import GraphGenerator
from tests.support.onnx_tiny import noise, run_ort
from tests.support.plugin_graphs import HEADS, Block
from tests.support.plugin_rows import GELUS, gelu_twin, norm_twin, rows
from trt_int8.errors import GraphError
from trt_int8.graph.half import to_half
from trt_int8.graph.normalize import normalize
from trt_int8.graph.plugin_nodes import FusedGraph, fuse_plugins
from trt_int8.graph.plugin_variants import inline_plugins, strip_bodies
from trt_int8.model.source import resolve_source
from trt_int8.pipeline.options import BuildOptions
from trt_int8.pipeline.prepare import prepare
from trt_int8.pipeline.progress import SilentReporter
from trt_int8.spec.plugins import PLUGIN_FAMILIES

Feeds = dict[str, Any]
# What each architecture has: attentions, norms and GELUs that become nodes. DeBERTa's attention has
# three axes; behind its last norm GPT-2 has a Reshape that changes nothing.
FOUND = {
    "albert": (2, 4, 2),
    "bert": (2, 4, 2),
    "deberta-v2": (0, 3, 2),
    "deit": (2, 4, 2),
    "distilbert": (2, 4, 2),
    "electra": (2, 4, 2),
    "gpt2": (2, 4, 2),
    "modernbert": (2, 4, 0),
    "mpnet": (2, 4, 2),
    "roberta": (2, 4, 2),
    "t5": (2, 4, 0),
    "vit": (2, 4, 2),
    "whisper": (2, 4, 2),
    "xlm-roberta": (2, 4, 2),
}
QUICK = ("bert", "gpt2", "t5")


def same_bits(twin: onnx.ModelProto, feeds: Feeds) -> FusedGraph:
    """Fuse all families; check the file with and without bodies in place."""
    found = fuse_plugins(twin, PLUGIN_FAMILIES)
    onnx.checker.check_model(found.model)
    strip_bodies(found.model)
    want = run_ort(twin, feeds)
    for model in (found.model, inline_plugins(found.model)):
        for one, other in zip(want, run_ort(model, feeds), strict=True):
            np.testing.assert_array_equal(other, one)
    return found


def families(found: FusedGraph) -> tuple[int, ...]:
    made = [signature.family for _, signature in found.calls]
    return tuple(made.count(family) for family in PLUGIN_FAMILIES)


def test_in_random_graphs_norms_alone_are_taken_for_plugins_and_keep_their_bits() -> None:
    nodes, looked_at = 0, []
    for seed in range(100):
        try:
            twin = to_half(normalize(GraphGenerator(seed).model()))
        except GraphError:
            continue
        found = fuse_plugins(twin, PLUGIN_FAMILIES)
        looked_at += [note.reason for note in found.notes]
        if found.calls:
            dims = twin.graph.input[0].type.tensor_type.shape.dim
            same_bits(twin, {"x": noise(*[d.dim_value or 3 for d in dims], seed=seed)})
            assert {signature.family for _, signature in found.calls} == {"layernorm"}
            nodes += len(found.calls)
    # Attentions of rank 2 and float32 in front of norms are among them.
    assert nodes >= 3
    assert len(looked_at) >= 3


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    kind=st.sampled_from([*GELUS, "norm"]),
    switches=st.tuples(*[st.booleans()] * 5),
    flat=st.sampled_from(["", "rows"]),
)
def test_rows_in_any_form_are_found_and_keep_their_bits(
    seed: int, kind: str, switches: tuple[bool, bool, bool, bool, bool], flat: str
) -> None:
    bias, residual, half, total, beta = switches
    # Float16 that goes on as [B, S, H] too: the Reshape is not in front of this Q alone.
    flat = "" if half else flat
    if kind == "norm":
        twin = norm_twin(bias=bias, residual=residual, half=half, total=total, beta=beta, flat=flat)
    else:
        twin = gelu_twin(kind, bias=bias, flat=flat)
    feeds = {name: value * (1 + seed % 7) for name, value in rows(twin, 1 + seed % 3).items()}
    wanted = (0, 1, 0) if kind == "norm" else (0, 0, 1)
    assert families(same_bits(twin, feeds)) == wanted


blocks = st.builds(
    Block,
    mask=st.sampled_from(["none", "where", "hide", "add"]),
    bias=st.booleans(),
    mask_shape=st.tuples(
        st.sampled_from(["batch", 1]),
        st.sampled_from([HEADS, 1]),
        st.sampled_from(["sequence", 1]),
        st.sampled_from(["sequence", 1]),
    ),
    scale=st.sampled_from(["before", "q", "k", "scores", "none"]),
    pair_at=st.sampled_from(["split", "matmul"]),
    result=st.sampled_from(["heads", "rows", "merged"]),
    scales=st.tuples(*[st.sampled_from([0.01, 0.03, 0.1])] * 3, st.just(1 / 127), st.just(0.05)),
)


@settings(max_examples=25, deadline=None)
@given(block=blocks, batch=st.integers(1, 3), sequence=st.integers(1, 9))
def test_an_attention_in_any_form_is_found_and_keeps_its_bits(
    block: Block, batch: int, sequence: int
) -> None:
    assert families(same_bits(block.twin(), block.feeds(batch, sequence))) == (1, 0, 0)


def _architectures() -> list[object]:
    return [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in sorted(ARCHITECTURES)
    ]


@pytest.mark.parametrize("name", _architectures())
def test_an_architecture_keeps_its_bits_and_gets_the_nodes_that_are_known(
    name: str, tmp_path: Path
) -> None:
    model, data = ARCHITECTURES[name](tmp_path / name), tmp_path / "arrays.npz"
    arrays: dict[str, Any] = dict(arrays_for(name, 8))
    np.savez(data, **arrays)
    options = BuildOptions(model=str(model), calib=data, cache=None)
    prepared = prepare(resolve_source(str(model)), options, SilentReporter())
    found = same_bits(to_half(prepared.int8), dict(prepared.held_out[0]))
    assert families(found) == FOUND[name]
