from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.attention_block import build, evidence_of, not_int8, saved_request
from trt_int8.engine import selftest
from trt_int8.engine.coverage import Evidence, cover
from trt_int8.engine.plan_text import PlanOperator, read_plan
from trt_int8.errors import CoverageError
from trt_int8.model.onnx_matmuls import find_matmuls
from trt_int8.spec.build import BuildRequest

KERNEL = "_gemm_mha_v2_0xabc"


def plan(body: str, mask: int = 1, version: bytes = b"\x01\x07\x01\x74") -> bytes:
    """A plan with the header as observed and any body."""
    data = body.encode()
    header = b"vtrt" + bytes(12) + struct.pack("<Q", 64 + len(data)) + version + b"vtrt"
    return (header + struct.pack("<I", mask)).ljust(64, b"\0") + data


def written(folder: Path, data: bytes) -> Path:
    path = folder / "int8.engine"
    path.write_bytes(data)
    return path


def tensor(name: str, dtype: str) -> str:
    return f'  tensor={{ alignment=128 name="{name}" offset=0 rank0=1 type={dtype} }}\n'


def gemm(inputs: str, layers: str = "[ONNX Layer: fc]") -> str:
    quoted = " ".join(f'"{name}"' for name in inputs.split())
    return f'fully_connected={{ name="g" input={{{quoted} }} m=0 layers="{layers}" }}\n'


def attention(traits: tuple[str, str], inputs: str = "q k v s") -> str:
    quoted = " ".join(f'"{name}"' for name in inputs.split())
    first, second = (f"fmha::{trait}_traits" for trait in traits)
    return (
        "\n".join(tensor(name, "int8") for name in "qkv")
        + tensor("s", "int64")
        + f"function={{ name=_gemm_mha_v2 fqn={KERNEL} input_args={{ {quoted} }}"
        + ' layers="[ONNX Layer: scores]\x1f[ONNX Layer: context]" }\n'
        + f"using T = fmha::Kernel_traits_v2< {first}, {second}, 64>;\n"
        + f"__global__ void __launch_bounds__(128) {KERNEL} (int8_t *a) {{ }}\n"
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuildRequest:
    request = saved_request(tmp_path_factory.mktemp("plan"), selftest.positive_control())
    build({"positive": request})
    return request


def judged_with(request: BuildRequest, operators: tuple[PlanOperator, ...]) -> set[str]:
    """Nodes that are not INT8 when the plan's operator list is replaced."""
    evidence = Evidence("test", "0", evidence_of(request).layers, operators)
    sites = selftest.positive_control()
    return not_int8(cover(find_matmuls(sites), evidence, "int8", 75))


def test_a_real_plan_names_its_version_and_target(built: BuildRequest) -> None:
    text = read_plan(Path(built.engine_path))
    assert (text.version, text.sms) == ((1, 7, 1, 116), (75,))


def test_a_real_plan_lists_two_gemms_and_one_int8_attention(built: BuildRequest) -> None:
    operators = read_plan(Path(built.engine_path)).operators
    assert [(o.kind, o.int8_bmms) for o in operators] == [
        ("gemm", False),
        ("attention", True),
        ("gemm", False),
    ]
    assert {"q", "k", "v"} <= set(operators[0].onnx_nodes)
    assert {"scores", "context"} <= set(operators[1].onnx_nodes)


def test_an_operator_missing_from_the_plan_makes_its_nodes_disputed(built: BuildRequest) -> None:
    operators = evidence_of(built).operators or ()
    assert judged_with(built, operators) == set()
    assert judged_with(built, operators[:-1]) == {"out"}
    assert judged_with(built, operators[1:]) == {"q", "k", "v"}


def test_a_plan_whose_kernel_was_changed_to_half_is_not_int8(
    built: BuildRequest, tmp_path: Path
) -> None:
    data = Path(built.engine_path).read_bytes()
    changed = data.replace(b"imma_int8_int32_traits", b"hmma_fp16_fp32_traits_")
    assert changed != data
    tampered = read_plan(written(tmp_path, changed)).operators
    assert judged_with(built, tampered) == {"scores", "context"}


def test_a_plan_whose_weight_type_was_changed_is_disputed(
    built: BuildRequest, tmp_path: Path
) -> None:
    data = Path(built.engine_path).read_bytes()
    changed, count = re.subn(rb'(name="\w+_dconst"[^\n]*? type=)int8', rb"\1half", data)
    assert count > 0
    tampered = read_plan(written(tmp_path, changed)).operators
    assert judged_with(built, tampered) == {"q", "k", "v", "out"}


@pytest.mark.parametrize(
    ("mask", "sms"),
    [(1, (75,)), (2, (80,)), (3, (75, 80)), (126, (80, 86, 89, 120, 121)), (0, ())],
)
def test_the_capability_mask_gives_the_targets(
    mask: int, sms: tuple[int, ...], tmp_path: Path
) -> None:
    assert read_plan(written(tmp_path, plan("x", mask))).sms == sms


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:40],
        lambda data: b"",
        lambda data: b"ONNX" + data[4:],
        lambda data: data[:28] + b"xxxx" + data[32:],
    ],
    ids=["short", "empty", "no magic", "no second magic"],
)
def test_a_file_that_is_no_plan_is_refused(
    damage: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    with pytest.raises(CoverageError, match=r"'int8.engine' is not a plan; wanted a TensorRT-RTX"):
        read_plan(written(tmp_path, damage(plan("x" * 99))))


def test_a_plan_that_is_cut_short_is_refused(built: BuildRequest, tmp_path: Path) -> None:
    data = Path(built.engine_path).read_bytes()
    match = f"'int8.engine' has {len(data) - 1} bytes; wanted {len(data)}"
    with pytest.raises(CoverageError, match=match):
        read_plan(written(tmp_path, data[:-1]))


def test_a_plan_of_a_version_that_was_never_checked_is_refused(tmp_path: Path) -> None:
    data = plan("x", version=b"\x01\x08\x00\x02")
    with pytest.raises(CoverageError, match=r"version 1.8.0.2 was never checked; .*==1.7.1.116"):
        read_plan(written(tmp_path, data))


def test_operand_types_come_from_the_tensor_list(tmp_path: Path) -> None:
    body = tensor("a", "int8") + tensor("w", "half") + gemm("a w al be")
    (operator,) = read_plan(written(tmp_path, plan(body))).operators
    assert operator == PlanOperator("gemm", ("int8", "half"), ("fc",), int8_bmms=False)


def test_a_tensor_with_two_types_or_none_is_unknown(tmp_path: Path) -> None:
    body = tensor("a", "int8") + tensor("a", "half") + gemm("a w")
    (operator,) = read_plan(written(tmp_path, plan(body))).operators
    assert operator.operands == ("unknown", "unknown")


def test_other_functions_are_no_operators(tmp_path: Path) -> None:
    body = 'function={ name=__myl_MulAdd input_args={ "a" } layers="[ONNX Layer: fc]" }\n'
    assert read_plan(written(tmp_path, plan(body))).operators == ()


@pytest.mark.parametrize(
    ("traits", "is_int8"),
    [
        (("Turing_imma_int8_int32", "Turing_imma_int8_int32"), True),
        (("Ampere_imma_int8_int32", "Ampere_imma_int8_int32"), True),
        (("Turing_imma_int8_int32", "Turing_hmma_fp16"), False),
        (("Turing_hmma_fp16", "Turing_imma_int8_int32"), False),
        (("Turing_hmma_fp32", "Turing_hmma_fp32"), False),
    ],
)
def test_both_traits_of_an_attention_kernel_must_be_int8(
    traits: tuple[str, str], is_int8: bool, tmp_path: Path
) -> None:
    (operator,) = read_plan(written(tmp_path, plan(attention(traits)))).operators
    assert operator.operands == ("int8", "int8", "int8", "int64")
    assert operator.int8_bmms is is_int8


def test_all_inputs_of_an_attention_are_listed(tmp_path: Path) -> None:
    trait = "Turing_imma_int8_int32"
    body = attention((trait, trait), "s m q k v") + tensor("m", "half")
    (operator,) = read_plan(written(tmp_path, plan(body))).operators
    assert operator.operands == ("int64", "half", "int8", "int8", "int8")


def test_int8_traits_of_another_kernel_do_not_count(tmp_path: Path) -> None:
    body = attention(("Turing_imma_int8_int32",) * 2).replace(f"fqn={KERNEL}", "fqn=_gemm_mha_x")
    (operator,) = read_plan(written(tmp_path, plan(body))).operators
    assert operator.int8_bmms is False


def graph(tensors: str, operators: str) -> str:
    return f"{tensors}\nmain {{\n label bb1:\n{operators}}}\nshape_main {{\n}}\n"


def test_each_profile_has_tensors_of_its_own(tmp_path: Path) -> None:
    second = gemm("a w").replace('name="g"', 'name="g [profile 1]_U3"')
    body = graph(tensor("a", "int8") + tensor("w", "int8"), gemm("a w"))
    body += graph(tensor("a", "half") + tensor("w", "half"), second)
    operators = read_plan(written(tmp_path, plan(body))).operators
    assert [(o.profile, o.operands) for o in operators] == [
        (0, ("int8", "int8")),
        (1, ("half", "half")),
    ]


def test_an_attention_kernel_is_in_the_profile_of_its_graph(tmp_path: Path) -> None:
    trait = "Turing_imma_int8_int32"
    named = gemm("a w").replace('name="g"', 'name="g [profile 2]_U3"')
    body = graph(tensor("a", "int8"), gemm("a w")) + graph("", named + attention((trait, trait)))
    assert [o.profile for o in read_plan(written(tmp_path, plan(body))).operators] == [0, 2, 2]


def test_a_graph_that_names_two_profiles_is_of_none(tmp_path: Path) -> None:
    names = [gemm("a w").replace('name="g"', f'name="g [profile {n}]_U3"') for n in (1, 2)]
    body = graph(tensor("a", "int8"), "".join(names))
    assert [o.profile for o in read_plan(written(tmp_path, plan(body))).operators] == [-1, -1]
