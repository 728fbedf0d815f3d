"""Seeded two-layer Transformers and the TextModel around them."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor

from trt_int8.annotate.attention import use_primitive_attention
from trt_int8.annotate.torch_model import AnnotatedModel, annotate
from trt_int8.model.heads import ExportWrapper, SentenceHead
from trt_int8.model.huggingface import TextModel
from trt_int8.spec.recipe import Recipe

VOCABULARY = 97
_SIZES: dict[str, dict[str, Any]] = {
    "Bert": {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 80},
    "Roberta": {"hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 80},
    "Electra": {
        "hidden_size": 64,
        "embedding_size": 32,
        "num_hidden_layers": 2,
        "intermediate_size": 80,
    },
    "DistilBert": {"dim": 64, "n_layers": 2, "n_heads": 2, "hidden_dim": 80},
}


def tiny_backbone(family: str, kind: str = "Model", **changes: Any) -> Any:
    """A random `<family><kind>` in eval mode: two layers, H 64, two heads; seeded."""
    sizes = _SIZES[family] | {"vocab_size": VOCABULARY, "max_position_embeddings": 40} | changes
    if family != "DistilBert":
        sizes = {"num_attention_heads": 2} | sizes
    config = getattr(transformers, f"{family}Config")(**sizes)
    torch.manual_seed(7)
    bare = family in ("Bert", "Roberta") and kind == "Model"
    options = {"add_pooling_layer": False} if bare else {}
    model = getattr(transformers, f"{family}{kind}")(config, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            # The library's initial weights (0.02) give a nearly uniform softmax.
            if parameter.ndim == 2:
                parameter.mul_(4.0)
    return model.eval()


def tokens(batch: int = 3, length: int = 11, seed: int = 0) -> tuple[Tensor, Tensor]:
    """`input_ids` and an `attention_mask` with another number of padded places in each row."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (batch, length), generator=generator)
    mask = torch.ones(batch, length, dtype=torch.int64)
    for row in range(batch):
        mask[row, length - 2 * row :] = 0
    return ids, mask


def text_model(
    family: str = "Bert",
    kind: str = "Model",
    head: SentenceHead | None = None,
    **changes: Any,
) -> TextModel:
    """A TextModel with primitive attention and without a tokenizer."""
    backbone = tiny_backbone(family, kind, **changes)
    names = ("input_ids", "attention_mask")
    wrapper = ExportWrapper(backbone, names, head).eval()
    assert use_primitive_attention(backbone, tokens(), wrapper)
    with torch.no_grad():
        outputs = tuple(wrapper.outputs(*tokens()))
    return TextModel(
        wrapper=wrapper,
        backbone=backbone,
        tokenizer=None,
        input_names=names,
        output_names=outputs,
        max_length=40,
    )


def annotated(model: TextModel, recipe: Recipe | None = None) -> AnnotatedModel:
    """Annotate in place, with `max` ranges left to the caller."""
    return annotate(model.wrapper, tokens(), recipe or Recipe())
