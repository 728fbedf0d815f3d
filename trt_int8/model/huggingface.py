"""Load a Transformer, and its tokenizer if it reads text, with Hugging Face transformers."""

from __future__ import annotations

import inspect
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers.utils.hub import cached_file

from trt_int8.errors import ModelError, first_line
from trt_int8.model.heads import ExportWrapper, SentenceHead, read_modules, sentence_head_of
from trt_int8.model.inputs import ModelInput, example_array
from trt_int8.model.media import media_input
from trt_int8.model.quiet import quiet_transformers
from trt_int8.model.source import ModelSource

_TEXT_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True)
class TextModel:
    """A loaded model that reads text, ready to annotate, calibrate and export.

    Attributes:
        wrapper: module called with the inputs in `input_names` order; returns a tuple of outputs.
        backbone: the transformers model inside it.
        tokenizer: its tokenizer; None if the tokens come as arrays.
        input_names: int64 [B, S] inputs, in call order.
        output_names: outputs, in return order.
        max_length: longest sequence the position embeddings allow; None if unlimited.
        note: what of the checkpoint was left out, for the user; empty if nothing.
    """

    wrapper: ExportWrapper
    backbone: Any
    tokenizer: Any
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    max_length: int | None
    note: str = ""

    @property
    def inputs(self) -> tuple[ModelInput, ...]:
        """Type and axes of each input."""
        return tuple(ModelInput(n, "int64", ("batch", "sequence")) for n in self.input_names)


@dataclass(frozen=True)
class MediaModel:
    """A loaded model that reads images or sound as one float array.

    Attributes:
        wrapper: module called with that array; returns a tuple of outputs.
        backbone: the transformers model inside it.
        inputs: the one input.
        output_names: outputs, in return order.
        note: what of the checkpoint was left out, for the user; empty if nothing.
    """

    wrapper: ExportWrapper
    backbone: Any
    inputs: tuple[ModelInput, ...]
    output_names: tuple[str, ...]
    note: str = ""


def load_text_model(source: ModelSource) -> TextModel:
    """Load weights (float32, eval mode) and tokenizer of a model that reads text.

    Raises:
        ModelError: the folder is damaged, or the architecture is not supported.
    """
    model = load_model(source)
    if isinstance(model, MediaModel):
        raise _unsupported(source, model.backbone.config, "has no input_ids")
    return model


def load_model(source: ModelSource, given: Collection[str] = ()) -> TextModel | MediaModel:
    """Load weights (float32, eval mode) and, of a text model, the tokenizer.

    Of an encoder-decoder the encoder is loaded.

    Args:
        source: a folder or a hub id.
        given: names of the arrays that the user has; a text model then reads those of its inputs
            that are among them, and needs no tokenizer.

    Raises:
        ModelError: the folder is damaged, or the architecture is not supported.
    """
    with quiet_transformers():
        config = _load(source, transformers.AutoConfig)
        head = _head_of(source)
        backbone, note = _load_backbone(source, _class_of(config, head), config)
        known = inspect.signature(backbone.forward).parameters
        if "input_ids" not in known:
            return _media_model(source, backbone, note)
        names = [name for name in _TEXT_INPUTS if name in known]
        tokenizer = None if given else _load_tokenizer(source)
    # Every tokenizer makes a mask when asked for one; not every one makes token types.
    made = given or {"attention_mask", *getattr(tokenizer, "model_input_names", ())}
    names = [name for name in names if name in made or name == "input_ids"]
    wrapper = ExportWrapper(backbone, tuple(names), head).eval()
    inputs = tuple(ModelInput(name, "int64", ("batch", "sequence")) for name in names)
    return TextModel(
        wrapper=wrapper,
        backbone=backbone,
        tokenizer=tokenizer,
        input_names=tuple(names),
        output_names=_outputs(source, wrapper, inputs),
        max_length=_max_length(backbone),
        note=note,
    )


def _media_model(source: ModelSource, backbone: Any, note: str) -> MediaModel:
    found = media_input(backbone)
    if found is None:
        raise _unsupported(
            source, backbone.config, "reads neither tokens nor images or spectra of a known size"
        )
    wrapper = ExportWrapper(backbone, (found.name,), None).eval()
    outputs = _outputs(source, wrapper, (found,))
    return MediaModel(wrapper, backbone, (found,), outputs, note)


def _outputs(
    source: ModelSource, wrapper: ExportWrapper, inputs: tuple[ModelInput, ...]
) -> tuple[str, ...]:
    """Names of the outputs, found by running the model."""
    sizes = {"batch": 2, "sequence": 5}
    arrays = [torch.from_numpy(example_array(given, sizes)) for given in inputs]
    try:
        with torch.no_grad():
            return tuple(wrapper.outputs(*arrays))
    except (ValueError, TypeError, RuntimeError, IndexError, AttributeError) as error:
        names, config = [given.name for given in inputs], wrapper.model.config
        why = f"does not run on {names} ({first_line(error)})"
        raise _unsupported(source, config, why) from error


def _load_backbone(source: ModelSource, architecture: Any, config: Any) -> tuple[Any, str]:
    """The model, of an encoder-decoder its encoder; and a note that says so."""
    if not _has_decoder(architecture):
        return _load_weights(source, architecture), ""
    note = f"{architecture.__name__} is an encoder-decoder: its encoder is taken"
    # T5 has a class for its encoder alone, which a folder may have been saved from.
    loaded = transformers.MODEL_FOR_TEXT_ENCODING_MAPPING.get(type(config), architecture)
    backbone = _load_weights(source, loaded)
    if _has_decoder(loaded):
        backbone = backbone.get_encoder()
    if not isinstance(backbone, nn.Module) or _has_decoder(type(backbone)):
        raise _unsupported(source, config, "is an encoder-decoder whose encoder cannot be found")
    return backbone.eval(), note


def _has_decoder(architecture: Any) -> bool:
    return "decoder_input_ids" in inspect.signature(architecture.forward).parameters


def _unsupported(source: ModelSource, config: Any, why: str) -> ModelError:
    return ModelError(
        f"{source.name!r} ({config.model_type}) {why}",
        wanted="a text model, or an encoder of images or spectra of a fixed size",
        todo="export the model to ONNX, and pass the .onnx file and --calib FILE.npz",
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


def model_file(source: ModelSource, name: str) -> Path | None:
    """A file of a model's folder, or of its copy from the hub; None if there is none.

    Raises:
        ModelError: the hub cannot be reached.
    """
    if not source.local:
        return _fetch(source, name)
    return source.path / name if (source.path / name).is_file() else None


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
