"""Which tensors become INT8: the rules, each with its reason. Shared by PyTorch and ONNX.

| tensor | INT8 | reason |
|---|---|---|
| input and weight of a Linear with K and N >= 16 | yes | where the time goes |
| Q (after 1/sqrt(D)), K, V, softmax output, attention output | all or none | TensorRT has one \
fused INT8 attention kernel: INT8 in needs INT8 out, and one missing pair splits it |
| softmax input (scores), mask | no | a pair in front of the mask splits the kernel |
| residual sums, LayerNorm | no | their one-sided outliers cost most of the accuracy |
| embeddings, biases | no | no matmul to gain |
"""

from __future__ import annotations

from fnmatch import fnmatchcase

ATTENTION_SITES = ("query", "key", "value", "softmax", "context")
MIN_FEATURES = 16


def is_too_small(k: int, n: int) -> bool:
    """A matmul with K or N below 16 does not fill an INT8 tensor-core tile."""
    return min(k, n) < MIN_FEATURES


def is_kept(name: str, patterns: tuple[str, ...]) -> bool:
    """Tell whether the user's `keep` patterns leave a module or node in FP16.

    Upper and lower case differ, on every operating system.
    """
    return any(fnmatchcase(name, pattern) for pattern in patterns)
