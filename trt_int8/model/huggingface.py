"""Load a Transformer encoder and its tokenizer with Hugging Face transformers."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn

from trt_int8.errors import ModelError
from trt_int8.model.heads import ExportWrapper, SentenceHead, sentence_head_of
from trt_int8.model.source import ModelSource

_TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class TextModel:
    """A loaded model ready to annotate, calibrate and export.

    Attributes:
        wrapper: module called with the inputs in `input_names` order; returns a tuple of outputs.
        backbone: the transformers model inside it.
        tokenizer: its tokenizer.
        input_names: int64 [B, S] inputs, in call order.
        output_names: outputs, in return order; the last one is the primary output.
        max_length: longest sequence the position embeddings allow; None if unlimited.
    """

    wrapper: ExportWrapper
    backbone: Any
    tokenizer: Any
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    max_length: int | None


def load_text_model(source: ModelSource) -> TextModel:
    """Load weights (float32, eval mode) and tokenizer.

    Raises:
        ModelError: the folder is damaged, or the architecture is not supported.
    """
    with _quiet():
        config = _load(source, transformers.AutoConfig)
        head = sentence_head_of(source.path) if source.local else None
        loader = transformers.AutoModel if head is not None else _class_of(config)
        backbone = _load(source, loader, dtype=torch.float32).eval()
        tokenizer = _load(source, transformers.AutoTokenizer)
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{source.name!r} is an encoder-decoder ({config.model_type})",
            wanted="an encoder such as BERT, RoBERTa, DistilBERT or MPNet",
            todo="export the part you need to ONNX and pass the .onnx file",
        )
    names = [n for n in _TEXT_INPUTS if n in inspect.signature(backbone.forward).parameters]
    if "token_type_ids" not in tokenizer.model_input_names:
        names = [n for n in names if n != "token_type_ids"]
    wrapper = ExportWrapper(backbone, tuple(names), head).eval()
    return TextModel(
        wrapper=wrapper,
        backbone=backbone,
        tokenizer=tokenizer,
        input_names=tuple(names),
        output_names=_output_names(backbone, head),
        max_length=_max_length(backbone),
    )


def _class_of(config: Any) -> Any:
    name = (getattr(config, "architectures", None) or ["AutoModel"])[0]
    found = getattr(transformers, name, None)
    return found if found is not None else transformers.AutoModel


def _load(source: ModelSource, loader: Any, **options: Any) -> Any:
    if inspect.isclass(loader) and issubclass(loader, nn.Module) and _has_pooler(loader):
        options["add_pooling_layer"] = False
    try:
        return loader.from_pretrained(source.location, local_files_only=source.local, **options)
    except (OSError, ValueError, KeyError, RuntimeError, json.JSONDecodeError) as error:
        first = next((line for line in str(error).splitlines() if line.strip()), "no details")
        raise ModelError(
            f"transformers cannot load {source.location!r} ({type(error).__name__}: {first})",
            wanted="config.json, weights and tokenizer files of a supported architecture",
            todo="check the folder, or export the model to ONNX and pass the .onnx file",
        ) from error
    except Exception as error:
        if type(error).__module__.startswith(("safetensors", "tokenizers", "huggingface_hub")):
            raise ModelError(
                f"{source.location!r} is damaged ({type(error).__name__}: {error})",
                wanted="intact weights and tokenizer files",
                todo="download or save the model again",
            ) from error
        raise


def _has_pooler(loader: type[nn.Module]) -> bool:
    return "add_pooling_layer" in inspect.signature(loader.__init__).parameters


def _output_names(backbone: nn.Module, head: SentenceHead | None) -> tuple[str, ...]:
    returns_logits = "For" in type(backbone).__name__
    first = "logits" if returns_logits else "last_hidden_state"
    return (first,) if head is None else (first, "sentence_embedding")


def _max_length(backbone: nn.Module) -> int | None:
    """Longest sequence of the learned position embeddings (RoBERTa reserves padding_idx + 1)."""
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings"):
            reserved = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - reserved
    return None


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the loader's progress bars and reports; restore them after."""
    logger = logging.getLogger("transformers")
    level = logger.level
    bars = transformers.utils.logging.is_progress_bar_enabled()
    logger.setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()
