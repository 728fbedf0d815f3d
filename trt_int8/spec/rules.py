"""Where Q/DQ go and why: the placement rules as a table. Shared by PyTorch, ONNX and the linter."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase

from trt_int8.spec.base import Frozen

ATTENTION_SITES = ("query", "key", "value", "softmax", "context")
MIN_FEATURES = 16

_PLANS = "plans of TensorRT-RTX 1.7.1 for SM75 and SM80"
_GUIDE = "TensorRT documentation, explicit quantization"
_MODEL_OPT = "NVIDIA Model Optimizer, ONNX quantization"
_FT = "FasterTransformer BERT guide and example"


@dataclass(frozen=True)
class Rule:
    """One placement rule.

    Attributes:
        what: what is placed, and what is not.
        reason: why.
        source: who says so, or where it was read.
    """

    what: str
    reason: str
    source: str


RULES: dict[str, Rule] = {
    "symmetric": Rule(
        "int8 with zero point 0; activations one scale, weights one per output channel",
        "TensorRT refuses zero points, and builds uint8 as int8 without a word",
        f"{_GUIDE}; {_PLANS}",
    ),
    "weight-form": Rule(
        "a weight is an int8 initializer [K, N] behind one DequantizeLinear on axis 1",
        "a Transpose behind the pair is not folded: a kernel quantizes the weight at every run",
        _PLANS,
    ),
    "float32-scales": Rule(
        "scales stay float32, between two Casts in a float16 graph",
        "with float16 scales the GEMM writes its raw sums as float16, which overflows at 65504",
        _PLANS,
    ),
    "linear": Rule(
        "a pair on input and weight of a Linear; bias and activation stay float behind it",
        "a pair between GEMM, bias and activation breaks their fusion",
        _GUIDE,
    ),
    "smooth": Rule(
        "a Mul by a constant per channel may stand in front of the pair of a Linear's input",
        "it becomes part of the kernel that quantizes: as many kernels as without it",
        f"SmoothQuant (Xiao et al. 2023); {_PLANS}",
    ),
    "keep": Rule(
        "no pair on what a 'keep' pattern of the recipe names",
        "the user knows the model: a layer may matter more for accuracy than for speed",
        "the recipe",
    ),
    "small": Rule(
        f"no pair on a matmul with K or N below {MIN_FEATURES}",
        "it does not fill an INT8 tensor-core tile",
        f"{_MODEL_OPT} (int8.py)",
    ),
    "shared-norm": Rule(
        "one pair on a LayerNorm output, for Q, K, V, the feed-forward input and the skip arm",
        "LayerNorm and quantization are then one kernel, which stores the int8 tensor alone",
        f"{_MODEL_OPT} (quantized LayerNorm); {_PLANS}",
    ),
    "skip-arm": Rule(
        "of a residual sum the skip arm alone is quantized, once",
        "the other arm stays in the kernel behind the GEMM and never reaches memory",
        f"{_GUIDE} (figures of residual connections)",
    ),
    "attention": Rule(
        "pairs on Q (scaled by 1/sqrt(D)), K, V, softmax output and attention output: all or none",
        "the one fused INT8 attention kernel needs int8 in and int8 out; a missing pair splits it",
        _PLANS,
    ),
    "attention-output": Rule(
        "an attention output and the Linear that reads it behind Transpose and Reshape: one scale",
        "with two scales a kernel per layer turns the codes of one into those of the other",
        _PLANS,
    ),
    "attention-limits": Rule(
        "no pair on an attention whose head size, length or one head the INT8 kernel lacks",
        "it would run as separate matmuls and a softmax; in FP16 it stays one kernel",
        f"{_PLANS}; TensorRT 8.6 to 10 documentation",
    ),
    "scores": Rule(
        "no pair between the scores and the mask; on the masked scores only on demand (ft3)",
        "a pair in front of the mask splits the kernel; behind it masked scores saturate",
        _PLANS,
    ),
    "layout": Rule(
        "Transpose and Reshape may stand between a pair and its matmul",
        "all positions of the pair around them gave the same kernels",
        _PLANS,
    ),
    "attention-op": Rule(
        "attention stays MatMul, Softmax, MatMul",
        "the ONNX Attention operator never runs INT8: its pairs become rounding kernels",
        _PLANS,
    ),
    "norm-float": Rule(
        "LayerNorm reads float; its mean and variance are computed in float32",
        "float16 sums of squares overflow; prefer the LayerNormalization operator",
        f"{_PLANS}; FasterTransformer kernels",
    ),
    "residual-float": Rule(
        "residual sums stay float unless the recipe says residual",
        "their one-sided outliers cost most of the accuracy",
        f"{_FT}: mode 1; Bondarenko et al. 2021",
    ),
    "embeddings": Rule(
        "token ids are never quantized; tables only on demand, as int8 behind a DequantizeLinear",
        "there is no matmul to gain, only bytes",
        _PLANS,
    ),
    "plugin": Rule(
        "a plugin reads int8: QuantizeLinear, plugin, DequantizeLinear",
        "Q, DQ, plugin, Q, DQ is not fused and does the rounding twice",
        _GUIDE,
    ),
    "concat": Rule(
        "tensors that are quantized and then joined by Concat share one scale",
        "else the join has to dequantize and quantize again",
        f"{_MODEL_OPT} (concat elimination)",
    ),
    "packed": Rule(
        "a Linear whose result is cut into Q, K and V is cut into one Linear each",
        "TensorRT dequantizes the packed weight at run time and multiplies in float",
        _PLANS,
    ),
    "weight-per-tensor": Rule(
        "one scale per weight tensor only in ft2 and ft3, shared by Q, K and V",
        "an int8 GEMM output needs it; it costs accuracy, and scales that differ unmerge Q, K, V",
        f"{_FT}; {_PLANS}",
    ),
}


KEPT = "the recipe's 'keep' names it"


class PlacementNote(Frozen):
    """Why a node stays in float.

    Attributes:
        node: its ONNX name, or the name of the PyTorch module.
        rule: a key of `RULES`.
        reason: in words, with the numbers of this node.
    """

    node: str
    rule: str
    reason: str


def is_too_small(k: int, n: int) -> bool:
    """A matmul with K or N below 16 does not fill an INT8 tensor-core tile."""
    return min(k, n) < MIN_FEATURES


def is_kept(name: str, patterns: tuple[str, ...]) -> bool:
    """Tell whether the user's `keep` patterns leave a module or node in FP16.

    Upper and lower case differ, on every operating system.
    """
    return any(fnmatchcase(name, pattern) for pattern in patterns)
