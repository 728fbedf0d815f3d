"""One vector per text from the hidden states of its tokens, as `model/heads.py` puts in a graph."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from trt_int8.spec.text import Pooling

# As in the graph: far above the smallest float16, and far below the norm of any embedding.
_LEAST_NORM = 1e-4


def pool(
    hidden: NDArray[np.floating], mask: NDArray[np.integer], pooling: Pooling
) -> NDArray[np.float32]:
    """Mean over the unmasked tokens, sum(h * m) / max(sum(m), 1), or the first token.

    Args:
        hidden: [B, S, H].
        mask: [B, S], 1 for a token, 0 for padding.
        pooling: which.

    Returns:
        [B, H].
    """
    if pooling == "cls":
        return np.asarray(hidden[:, 0], np.float32)
    weight = np.asarray(mask, np.float64)[:, :, None]
    # Padding may hold anything, an infinity too, and that times 0 is no number.
    total = np.where(weight > 0, hidden, 0.0).sum(1, dtype=np.float64)
    return np.asarray(total / np.maximum(weight.sum(1), 1.0), np.float32)


def normalized(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Each vector [..., H] divided by its L2 norm, or by 1e-4 where that is larger."""
    values = np.asarray(vectors, np.float64)
    norms = np.sqrt((values * values).sum(-1, keepdims=True))
    return np.asarray(values / np.maximum(norms, _LEAST_NORM), np.float32)
