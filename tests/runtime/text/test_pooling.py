from __future__ import annotations

import numpy as np
import pytest
import torch

from trt_int8.model.heads import ExportWrapper, SentenceHead
from trt_int8.runtime.text.pooling import normalized, pool
from trt_int8.spec.text import Pooling


def of_graph(hidden: np.ndarray, mask: np.ndarray, head: SentenceHead) -> np.ndarray:
    wrapper = ExportWrapper(torch.nn.Identity(), (), head)
    found: np.ndarray = wrapper._pool(torch.from_numpy(hidden), torch.from_numpy(mask)).numpy()
    return found


def states(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    hidden = generator.normal(size=(5, 7, 13)).astype(np.float32)
    mask = (np.arange(7)[None, :] < np.array([7, 1, 3, 6, 0])[:, None]).astype(np.int64)
    return hidden, mask


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_vectors_are_those_that_a_graph_with_the_same_head_gives(pooling: Pooling) -> None:
    hidden, mask = states()
    wanted = of_graph(hidden, mask, SentenceHead(pooling, normalize=False))
    found = pool(hidden, mask, pooling)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
    wanted = of_graph(hidden, mask, SentenceHead(pooling, normalize=True))
    np.testing.assert_allclose(normalized(found), wanted, rtol=0, atol=1e-6)


def test_what_stands_in_the_padding_does_not_matter() -> None:
    hidden, mask = states()
    spoilt = np.where(mask[:, :, None] > 0, hidden, np.inf).astype(np.float32)
    assert np.array_equal(pool(spoilt, mask, "mean"), pool(hidden, mask, "mean"))


def test_a_zero_vector_stays_zero() -> None:
    assert normalized(np.zeros((1, 4))).tolist() == [[0, 0, 0, 0]]
