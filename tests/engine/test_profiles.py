"""Several optimization profiles in one real engine: what fuses in which."""

from __future__ import annotations

import onnx
import pytest

from tests.support.attention_block import build, evidence_of, request_for
from tests.support.quantized_attention import block_profile, quantized_attention
from trt_int8.engine.coverage import cover
from trt_int8.model.onnx_matmuls import find_matmuls
from trt_int8.spec.attention_limits import longest_int8_attention
from trt_int8.spec.coverage import EngineCoverage
from trt_int8.spec.shapes import DimRange, Profile

HEAD_DIM = 64


def shape(low: int, opt: int, high: int) -> Profile:
    return block_profile(DimRange(min=1, opt=2, max=3), DimRange(min=low, opt=opt, max=high))


@pytest.fixture(scope="module")
def coverage(tmp_path_factory: pytest.TempPathFactory) -> dict[int, EngineCoverage]:
    """Per SM the engine with profiles of up to 384 and of up to 512 tokens."""
    path = tmp_path_factory.mktemp("profiles") / "block.onnx"
    onnx.save(quantized_attention(HEAD_DIM), str(path))
    profiles = {"profiles": (shape(16, 128, 384), shape(385, 448, 512))}
    requests = {str(sm): request_for(path, sm).model_copy(update=profiles) for sm in (75, 80)}
    build(requests)
    sites = find_matmuls(onnx.load(str(path)))
    return {
        int(sm): cover(sites, evidence_of(request), "int8", int(sm), ("short", "long"))
        for sm, request in requests.items()
    }


@pytest.mark.parametrize("sm", [75, 80])
def test_each_profile_fuses_as_its_own_longest_text_allows(
    sm: int, coverage: dict[int, EngineCoverage]
) -> None:
    limit = longest_int8_attention(HEAD_DIM, sm)
    fused = [(part.profile, part.attentions_int8) for part in coverage[sm].profiles]
    assert fused == [("short", limit >= 384), ("long", limit >= 512)]


@pytest.mark.parametrize("sm", [75, 80])
def test_every_matmul_runs_int8_in_both_profiles(
    sm: int, coverage: dict[int, EngineCoverage]
) -> None:
    assert [part.int8 for part in coverage[sm].profiles] == [6, 6]
    assert coverage[sm].fraction == 1.0


def test_what_is_split_in_the_long_profile_is_not_fused_in_the_engine(
    coverage: dict[int, EngineCoverage],
) -> None:
    assert {sm: each.attentions_fused for sm, each in coverage.items()} == {75: 0, 80: 1}
