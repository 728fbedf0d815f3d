"""Load a Transformer encoder and its tokenizer with Hugging Face transformers."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers.utils.hub import cached_file

from trt_int8.errors import ModelError, first_line
from trt_int8.model.heads import ExportWrapper, SentenceHead, read_modules, sentence_head_of
from trt_int8.model.quiet import quiet_transformers
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
        output_names: outputs, in return order.
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
    with quiet_transformers():
        config = _load(source, transformers.AutoConfig)
        if getattr(config, "is_encoder_decoder", False):
            raise ModelError(
                f"{source.name!r} is an encoder-decoder ({config.model_type})",
                wanted="an encoder such as BERT, RoBERTa, DistilBERT or MPNet",
                todo="export the part you need to ONNX and pass the .onnx file",
            )
        head = _head_of(source)
        architecture = _class_of(config, head)
        names = [n for n in _TEXT_INPUTS if n in inspect.signature(architecture.forward).parameters]
        if "input_ids" not in names:
            raise _no_text_model(source, config, "has no input_ids")
        backbone = _load_weights(source, architecture)
        tokenizer = _load_tokenizer(source)
    if "token_type_ids" not in tokenizer.model_input_names:
        names = [n for n in names if n != "token_type_ids"]
    wrapper = ExportWrapper(backbone, tuple(names), head).eval()
    try:
        with torch.no_grad():
            outputs = wrapper.outputs(*(torch.ones(2, 5, dtype=torch.int64) for _ in names))
    except (ValueError, TypeError, RuntimeError, IndexError, AttributeError) as error:
        raise _no_text_model(source, config, f"does not run on {names} ({error})") from error
    return TextModel(
        wrapper=wrapper,
        backbone=backbone,
        tokenizer=tokenizer,
        input_names=tuple(names),
        output_names=tuple(outputs),
        max_length=_max_length(backbone),
    )


def _no_text_model(source: ModelSource, config: Any, why: str) -> ModelError:
    return ModelError(
        f"{source.name!r} ({config.model_type}) {why}",
        wanted="a text model: only models that read token ids alone are supported",
        todo="pass another model",
    )


def _head_of(source: ModelSource) -> SentenceHead | None:
    if source.local:
        return sentence_head_of(source.path)
    # Of a hub model, transformers fetches only its own files.
    listing = _fetch(source, "modules.json")
    if listing is None:
        return None
    for module in read_modules(listing):
        _fetch(source, f"{module['path']}/config.json".lstrip("/"))
    return sentence_head_of(listing.parent)


def _fetch(source: ModelSource, name: str) -> Path | None:
    """A file of a hub model, from the cache or the hub; None if the model has no such file."""
    try:
        found = cached_file(source.location, name, _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError) as error:
        raise _unloadable(source, error) from error
    return None if found is None else Path(found)


def _class_of(config: Any, head: SentenceHead | None) -> Any:
    """The class named in the config; in front of a sentence head the one without a task head."""
    named = (getattr(config, "architectures", None) or [""])[0]
    found = getattr(transformers, named, None) if head is None else None
    if found is None:
        found = transformers.MODEL_MAPPING.get(type(config), transformers.AutoModel)
    return found[0] if isinstance(found, tuple) else found


def _load_weights(source: ModelSource, architecture: Any) -> Any:
    options: dict[str, Any] = {"dtype": torch.float32, "output_loading_info": True}
    if "add_pooling_layer" in inspect.signature(architecture.__init__).parameters:
        options["add_pooling_layer"] = False
    model, info = _load(source, architecture, **options)
    missing = sorted(info["missing_keys"])
    if missing:
        raise ModelError(
            f"the weights of {source.location!r} lack {missing[0]!r} ({len(missing)} missing)",
            wanted=f"all weights of {type(model).__name__}, which config.json asks for",
            todo="save the model again, or correct config.json",
        )
    # Caches of keys and values are no outputs.
    model.config.use_cache = False
    return model.eval()


def _load_tokenizer(source: ModelSource) -> Any:
    tokenizer = _load(source, transformers.AutoTokenizer)
    # Without its files transformers builds one that knows its special tokens only.
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        raise ModelError(
            f"transformers cannot load the tokenizer of {source.location!r} (it has no vocabulary)",
            wanted="tokenizer.json, vocab.txt or what else the tokenizer reads",
            todo="save the tokenizer beside the model",
        )
    return tokenizer


def _load(source: ModelSource, loader: Any, **options: Any) -> Any:
    try:
        return loader.from_pretrained(source.location, local_files_only=source.local, **options)
    except (OSError, ValueError, KeyError, RuntimeError, json.JSONDecodeError) as error:
        raise _unloadable(source, error) from error
    except Exception as error:
        if type(error).__module__.startswith(("safetensors", "tokenizers", "huggingface_hub")):
            raise ModelError(
                f"{source.location!r} is damaged ({type(error).__name__}: {error})",
                wanted="intact weights and tokenizer files",
                todo="download or save the model again",
            ) from error
        raise


def _unloadable(source: ModelSource, error: Exception) -> ModelError:
    reason = f"{type(error).__name__}: {first_line(error)}"
    return ModelError(
        f"transformers cannot load {source.location!r} ({reason})",
        wanted="config.json, weights and tokenizer files of a supported architecture",
        todo="check the folder, or export the model to ONNX and pass the .onnx file",
    )


def _max_length(backbone: Any) -> int | None:
    """Longest sequence of the learned position embeddings (RoBERTa reserves padding_idx + 1)."""
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Embedding) and name.endswith("position_embeddings"):
            reserved = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - reserved
    limit = getattr(backbone.config, "max_position_embeddings", None)
    return limit if isinstance(limit, int) and limit > 0 else None
