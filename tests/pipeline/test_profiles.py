"""Which profiles a build gets: split by itself, or as asked for."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from tests.support.onnx_tiny import Tiny, noise
from trt_int8.graph.half import to_half
from trt_int8.graph.normalize import normalize
from trt_int8.graph.plugin_nodes import fuse_plugins
from trt_int8.model.inputs import graph_inputs
from trt_int8.pipeline.data import PreparedModel
from trt_int8.pipeline.options import BuildOptions
from trt_int8.pipeline.profiles import choose_profiles, guard_of, int8_head_dims, plan_notes
from trt_int8.spec.rules import PlacementNote
from trt_int8.spec.shapes import bind_shapes, parse_shapes


def attention(head_dim: int, *, quantized: bool = True) -> onnx.ModelProto:
    """Token ids -> embedding -> one attention with two heads."""
    tiny, width = Tiny(), 2 * head_dim
    x = tiny.op("Gather", tiny.const("table", noise(9, width)), "ids")
    shape = tiny.const("shape", np.array([0, 0, 2, head_dim]))

    def head(perm: list[int]) -> str:
        made = tiny.op("Transpose", tiny.op("Reshape", x, shape), perm=perm)
        return tiny.pair(made, 0.1) if quantized else made

    scores = tiny.op("MatMul", head([0, 2, 1, 3]), head([0, 2, 3, 1]), name="scores")
    weights = tiny.op("Softmax", scores, axis=-1)
    weights = tiny.pair(weights, 1 / 127) if quantized else weights
    context = tiny.op("MatMul", weights, head([0, 2, 1, 3]), name="context")
    tiny.op("Transpose", context, perm=[0, 2, 1, 3], out="y")
    model = tiny.build({}, {"y": ["batch", "seq", 2, head_dim]})
    axes = ["batch", "seq"]
    ids = onnx.helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, axes)
    model.graph.input.append(ids)
    return normalize(model)


def prepared(model: onnx.ModelProto, shapes: str) -> PreparedModel:
    axes = {each.name: each.axes for each in graph_inputs(model)}
    bound = bind_shapes(axes, parse_shapes(*shapes.split()))
    return PreparedModel(model, model, None, [], "", bound)


def options(shapes: str, sms: tuple[int | None, ...] = (75,)) -> BuildOptions:
    return BuildOptions(model="m", shapes=parse_shapes(*shapes.split()), sms=sms)


@pytest.mark.parametrize(
    ("head_dim", "sms", "shapes", "labels"),
    [
        (64, (75,), "batch=1,seq=16:128:512", ("seq 16-384", "seq 385-512")),
        (64, (80,), "batch=1,seq=16:128:512", ("seq 16-512",)),
        (64, (75, 80), "batch=1,seq=9:9:999", ("seq 9-384", "seq 385-512", "seq 513-999")),
        (32, (75,), "batch=1,seq=16:128:512", ("seq 16-512",)),
        (64, (75,), "batch=1,seq=16:400:512", ("seq 16-512",)),
        (40, (75,), "batch=1,seq=16:128:512", ("seq 16-512",)),
        (64, (75,), "batch=1,seq=16:128:400|401:450:512", ("seq 16-400", "seq 401-512")),
    ],
)
def test_a_single_profile_is_split_where_that_keeps_the_fused_kernel(
    head_dim: int, sms: tuple[int, ...], shapes: str, labels: tuple[str, ...]
) -> None:
    chosen = choose_profiles(prepared(attention(head_dim), shapes), options(shapes, sms))
    assert chosen.labels == labels
    assert len(chosen.profiles) == len(labels)
    is_split = len(labels) > 1 and "|" not in shapes
    assert [("is split into " + " | ".join(labels)) in note for note in chosen.notes] == (
        [True] if is_split else []
    )


def test_attention_that_is_not_quantized_splits_nothing() -> None:
    shapes = "batch=1,seq=16:128:512"
    chosen = choose_profiles(prepared(attention(64, quantized=False), shapes), options(shapes))
    assert chosen.labels == ("seq 16-512",)


def test_attention_that_a_plugin_computes_splits_nothing() -> None:
    shapes = "batch=1,seq=16:128:512"
    model = attention(64)
    fused = fuse_plugins(to_half(model), ["attention"])
    assert len(fused.calls) == 1
    chosen = choose_profiles(prepared(model, shapes), options(shapes), fused.model)
    assert (chosen.labels, chosen.notes) == (("seq 16-512",), ())


def test_attention_that_is_left_to_tensorrt_beside_a_plugin_is_split_for() -> None:
    shapes = "batch=1,seq=16:128:512"
    model = attention(64)
    fused = fuse_plugins(to_half(model), ["layernorm"])
    chosen = choose_profiles(prepared(model, shapes), options(shapes), fused.model)
    assert chosen.labels == ("seq 16-384", "seq 385-512")


def test_implicit_int8_keeps_one_profile() -> None:
    shapes = "batch=1,seq=16:128:512"
    asked = options(shapes).model_copy(update={"implicit_int8": "entropy2"})
    assert len(choose_profiles(prepared(attention(64), shapes), asked).profiles) == 1


def test_profiles_asked_for_keep_their_batch_sizes() -> None:
    shapes = "batch=1:2:3,seq=5:6:7 batch=4,seq=8:9:10"
    chosen = choose_profiles(prepared(attention(32), shapes), options(shapes))
    assert [(p[0].min, p[0].opt, p[0].max) for p in chosen.profiles] == [
        ((1, 5), (2, 6), (3, 7)),
        ((4, 8), (4, 9), (4, 10)),
    ]


@pytest.mark.parametrize(
    ("shapes", "longest"),
    [("batch=1,seq=16:128:999", 128), ("batch=1,seq=16:128:999|5:6:40", 40)],
)
def test_the_guard_knows_the_targets_and_the_length_that_must_fuse(
    shapes: str, longest: int
) -> None:
    model = attention(64)
    guard = guard_of(
        options(shapes, (75, None)), prepared(model, shapes).shapes, graph_inputs(model)
    )
    assert guard is not None
    assert (guard.sms, guard.longest) == ((75, None), longest)


def test_without_engines_there_is_no_guard() -> None:
    model, shapes = attention(64), "batch=1,seq=16:128:999"
    bound = prepared(model, shapes).shapes
    assert guard_of(options(shapes, ()), bound, graph_inputs(model)) is None


def test_head_sizes_are_those_of_quantized_attentions() -> None:
    assert int8_head_dims(attention(24)) == {24}
    assert int8_head_dims(attention(24, quantized=False)) == frozenset()


def test_notes_of_the_plan_are_told_once_per_reason() -> None:
    notes = [PlacementNote(node=f"n{i}", rule="r", reason="too long") for i in range(5)]
    notes.append(PlacementNote(node="x", rule="r", reason="odd"))
    assert plan_notes(notes) == (
        "5 not in INT8, too long: n0, n1, n2 and 2 more",
        "1 not in INT8, odd: x",
    )
