from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.plans import (
    BLOCK,
    OUT,
    QUERY,
    UP,
    block_plan,
    computed,
    function,
    fusion,
    gemm,
    graph,
    stored,
    write_plan,
)
from trt_int8.engine.plan_graph import PlanKernel, merged_matmuls, read_graph
from trt_int8.errors import CoverageError


def types(kernel: PlanKernel) -> tuple[str, ...]:
    return tuple(tensor.dtype for tensor in kernel.multiplied)


def kernels_of(path: Path, *parts: str) -> tuple[PlanKernel, ...]:
    return read_graph(write_plan(path / "x.engine", *parts)).kernels


def test_kernels_come_in_the_order_they_run_without_copies(tmp_path: Path) -> None:
    found = read_graph(block_plan(tmp_path / "x.engine"))
    assert [(k.layer.kind, k.layer.name) for k in found.kernels] == [
        ("gemm", QUERY),
        ("other", "__myl_MulMinMaxRounCast"),
        ("attention", "_gemm_mha_v2"),
        ("gemm", f"{OUT}_U42"),
        ("gemm", "__myl_FcAddErf"),
        ("other", "__myl_Cast"),
    ]


def test_a_gemm_has_its_operands_weight_and_output(tmp_path: Path) -> None:
    first = read_graph(block_plan(tmp_path / "x.engine")).kernels[0]
    assert (types(first), first.weight_dims, first.constant_weight) == (
        ("int8", "int8"),
        (64, 192),
        True,
    )
    assert [t.dtype for t in first.layer.outputs] == ["float"]
    assert first.layer.onnx_nodes == (QUERY, f"{BLOCK}/dq")


def test_a_fused_gemm_takes_what_it_multiplies_from_the_graph_inside_it(tmp_path: Path) -> None:
    fused = read_graph(block_plan(tmp_path / "x.engine")).kernels[4]
    assert (types(fused), fused.matmuls) == (("half", "half"), (UP,))
    assert (fused.weight_dims, fused.constant_weight) == ((64, 80), True)


def test_a_fused_gemm_without_an_inner_graph_is_of_unknown_type(tmp_path: Path) -> None:
    operators = [fusion("__myl_FcAdd", "a w", "y", "fc")]
    (only,) = kernels_of(tmp_path, graph([computed("a", "int8")], operators))
    assert (only.layer.kind, only.matmuls, types(only)) == ("gemm", (), ())


def test_inner_graphs_that_disagree_prove_nothing(tmp_path: Path) -> None:
    outer = graph([computed("a", "int8")], [fusion("__myl_FcAdd", "a w", "y", "fc fd")])
    inner = [
        graph([computed("a", t), computed("w", t)], [gemm(node, "a w", "y", node)], "*")
        for t, node in (("int8", "fc"), ("half", "fd"))
    ]
    (only,) = kernels_of(tmp_path, outer, *inner)
    assert types(only) == ()


def test_the_inner_graph_of_another_kernel_does_not_count(tmp_path: Path) -> None:
    outer = graph([computed("a", "half")], [fusion("__myl_FcAdd", "a w", "y", "fc")])
    other = graph(
        [computed("a", "int8"), computed("w", "int8")], [gemm("other", "a w", "y", "other")], "*"
    )
    (only,) = kernels_of(tmp_path, outer, other)
    assert types(only) == ()


def test_tensors_of_one_name_in_two_graphs_are_kept_apart(tmp_path: Path) -> None:
    one = graph([computed("a", "int8"), computed("w", "int8")], [gemm("f", "a w", "a", "f")])
    two = graph([computed("a", "half"), computed("w", "half")], [gemm("g", "a w", "a", "g")])
    assert [types(k) for k in kernels_of(tmp_path, one, two)] == [
        ("int8", "int8"),
        ("half", "half"),
    ]


def test_a_tensor_that_is_described_with_two_types_is_unknown(tmp_path: Path) -> None:
    tensors = [computed("a", "int8"), computed("a", "half"), computed("w", "int8")]
    (only,) = kernels_of(tmp_path, graph(tensors, [gemm("f", "a w", "y", "f")]))
    assert types(only) == ("unknown", "int8")


def test_names_with_braces_do_not_cut_the_operands_short(tmp_path: Path) -> None:
    name = "{ForeignNode[/a.../b]}_x.1"
    tensors = [computed(name, "int8"), computed("w", "int8")]
    (only,) = kernels_of(tmp_path, graph(tensors, [gemm("f", f"{name} w", "y", "f")]))
    assert types(only) == ("int8", "int8")


def test_weights_are_summed_by_type_and_a_place_counts_once(tmp_path: Path) -> None:
    tensors = [
        stored("w", "int8", "64 48", 3072, 1),
        stored("w_again", "int8", "64 48", 3072, 1),
        stored("v", "int8", "16 48", 768, 2),
        stored("table", "half", "97 64", 12416, 3),
        computed("a", "int8"),
    ]
    path = write_plan(tmp_path / "x.engine", graph(tensors, [gemm("f", "a w", "y", "f")]))
    assert [(w.dtype, w.values, w.size_bytes) for w in read_graph(path).weights] == [
        ("half", 6208, 12416),
        ("int8", 3840, 3840),
    ]


def test_each_profile_has_kernels_of_its_own_but_shares_the_weights(tmp_path: Path) -> None:
    tensors = [stored("w", "int8", "64 48", 3072, 1), computed("a", "int8")]
    parts = [graph(tensors, [gemm(f"f{mark}", "a w", "y", "f")]) for mark in ("", " [profile 1]")]
    found = read_graph(write_plan(tmp_path / "x.engine", *parts))
    assert [(k.layer.profile, k.matmuls) for k in found.kernels] == [(0, ("f",)), (1, ("f",))]
    assert [(w.dtype, w.size_bytes) for w in found.weights] == [("int8", 3072)]


def test_constants_inside_fused_kernels_are_no_weights(tmp_path: Path) -> None:
    weights = read_graph(block_plan(tmp_path / "x.engine")).weights
    assert {w.dtype: w.size_bytes for w in weights} == {"int8": 16384, "half": 10240, "float": 4}


@pytest.mark.parametrize(
    ("name", "nodes", "matmuls"),
    [
        ("v+k+q", ("v", "k", "q", "dq"), ("v", "k", "q")),
        ("v_U20+k_U25", ("v", "k"), ("v", "k")),
        ("v [profile 1]_U20+k [profile 1]", ("v", "k"), ("v", "k")),
        ("a+b", ("a+b",), ("a+b",)),
        ("out_U42", ("out_U42",), ("out_U42",)),
        ("v+k", ("v",), ()),
        ("v", (), ()),
    ],
)
def test_a_gemm_is_named_after_the_matmuls_it_merges(
    name: str, nodes: tuple[str, ...], matmuls: tuple[str, ...]
) -> None:
    assert merged_matmuls(name, nodes) == matmuls


@pytest.mark.parametrize(
    "parts",
    [
        (),
        ("just text",),
        (graph([], [function("__myl_Cast", "a", "b", "c")]).replace("main", "m"),),
    ],
    ids=["nothing", "text", "no main block"],
)
def test_a_plan_without_kernels_is_refused(tmp_path: Path, parts: tuple[str, ...]) -> None:
    with pytest.raises(CoverageError, match=r"'x.engine' lists no kernel"):
        read_graph(write_plan(tmp_path / "x.engine", *parts))
