"""The tokenizer in the bundle, and what the model does with text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers

from trt_int8.errors import CalibrationError, ModelError, TrtInt8Error, first_line
from trt_int8.model.huggingface import model_file
from trt_int8.model.inputs import ModelInput
from trt_int8.model.quiet import quiet_transformers
from trt_int8.model.source import ModelSource
from trt_int8.pipeline.onnx_entrance import find_tokenizer
from trt_int8.pipeline.options import InputOptions
from trt_int8.pipeline.progress import Reporter
from trt_int8.pipeline.sentence import (
    MODULES_FILE,
    SENTENCE_FILE,
    SentenceSettings,
    add_lower_case,
    sentence_limits,
    sentence_settings,
)
from trt_int8.runtime.tensors import Signature, read_signature
from trt_int8.runtime.text.settings import (
    CONFIG_FILE,
    TOKENIZER_CONFIG_FILE,
    architecture_of,
    least,
    longest_of,
    model_settings,
    read_json,
)
from trt_int8.runtime.text.stream import MAKES
from trt_int8.runtime.text.tokens import load_tokenizer
from trt_int8.spec.shapes import Profile
from trt_int8.spec.text import TOKENIZER_FOLDER, Side, TextSettings

# Where transformers found the files: nothing of the tokenizer.
_ABOUT_LOADING = ("is_local", "local_files_only", "name_or_path")
# Case, accents, digits, another script, an emoji: what tokenizers differ in.
_PROBES = (
    ("The quick Fox: 12.5% naïve café, can't — 東京 🙂\r\n\tend",),
    ("first text", "Second text."),
)


def save_text(
    source: ModelSource,
    options: InputOptions,
    model: Path,
    profiles: tuple[Profile, ...],
    reporter: Reporter,
) -> TextSettings | None:
    """Put the tokenizer's files into the bundle.

    Args:
        source: the model.
        options: the tokenizer's folder for an ONNX model.
        model: the INT8 graph, in the bundle's folder.
        profiles: of the engines.
        reporter: told if the files do not give the tokenizer's tokens.

    Returns:
        How the model reads text; None if it does not, or has no tokenizer.

    Raises:
        ModelError: the tokenizer that the user named is damaged.
        CalibrationError: it does not make what the model reads.
    """
    signature = read_signature(model.read_bytes(), profiles)
    inputs = tuple(ModelInput(one.name, one.dtype, one.axes) for one in signature.inputs)
    if not all(one.base in MAKES and one.holds_tokens for one in inputs):
        return None
    found = _load(source, options, inputs)
    if found is None:
        return None
    tokenizer = found.tokenizer
    if found.sentence.lower_case:
        add_lower_case(tokenizer)
    settings = _settings(found, signature)
    if found.sentence.note:
        reporter.note(found.sentence.note)
    folder = model.parent / TOKENIZER_FOLDER
    _write(tokenizer, folder)
    why = _differs(tokenizer, folder, settings)
    if why:
        reporter.note(f"the bundle has no tokenizer: the saved files {why}")
        _remove(folder)
        return None
    return settings


@dataclass(frozen=True)
class _Found:
    """The tokenizer, and what is known of the model.

    Attributes:
        tokenizer: of transformers.
        config: the model's configuration; empty if unknown.
        sentence: what its sentence-transformers folder asks for.
        in_torch: whether transformers' own model was exported.
    """

    tokenizer: Any
    config: Mapping[str, Any]
    sentence: SentenceSettings
    in_torch: bool


def _load(
    source: ModelSource, options: InputOptions, inputs: tuple[ModelInput, ...]
) -> _Found | None:
    """The tokenizer, or None without one, and the model's configuration."""
    if source.kind == "onnx":
        return _load_beside(source, options, inputs)
    place, local = source.location, source.local
    with quiet_transformers():
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(place, local_files_only=local)
        except Exception:  # noqa: BLE001 - calibration with arrays needs none, so any fault may be
            return None
        config = transformers.AutoConfig.from_pretrained(place, local_files_only=local)
    # Without its files transformers builds one that knows its special tokens only.
    if set(tokenizer.get_vocab()) <= set(tokenizer.all_special_tokens):
        return None
    return _Found(tokenizer, config.to_dict(), _limits(source), in_torch=True)


def _limits(source: ModelSource) -> SentenceSettings:
    """Without pooling: transformers' model has its head in the graph."""
    try:
        file = model_file(source, MODULES_FILE) and model_file(source, SENTENCE_FILE)
    except ModelError as error:  # of the hub; no reason to lose a build
        return SentenceSettings(note=f"{SENTENCE_FILE} could not be looked for: {error.came}")
    return sentence_limits(file) if file is not None else SentenceSettings()


def _load_beside(
    source: ModelSource, options: InputOptions, inputs: tuple[ModelInput, ...]
) -> _Found | None:
    try:
        with quiet_transformers():
            tokenizer = find_tokenizer(source.path, options.tokenizer, inputs)
    except (ModelError, CalibrationError):
        if options.tokenizer is not None:
            raise
        return None
    beside = source.path.parent
    for place in (options.tokenizer or beside.parent, beside):
        if (place / CONFIG_FILE).is_file():
            try:
                config = read_json(place / CONFIG_FILE)
            except TrtInt8Error:  # it is not needed: without it the task is `features`
                break
            return _Found(tokenizer, config, sentence_settings(place), in_torch=False)
    return _Found(tokenizer, {}, SentenceSettings(), in_torch=False)


def _settings(found: _Found, signature: Signature) -> TextSettings:
    tokenizer, config, sentence = found.tokenizer, found.config, found.sentence
    padding = (getattr(tokenizer, "pad_token_id", None), config.get("pad_token_id"), 0)
    limit = sentence.max_tokens or tokenizer.model_max_length
    return model_settings(signature.outputs, config).model_copy(
        update={
            "pad_token_id": next(int(each) for each in padding if each is not None),
            "pad_token_type_id": int(getattr(tokenizer, "pad_token_type_id", None) or 0),
            "padding_side": _padding_side(found),
            "truncation_side": tokenizer.truncation_side,
            "max_tokens": least(longest_of(signature), limit),
            "pooling": sentence.pooling,
            "normalize": sentence.normalize,
        }
    )


def _padding_side(found: _Found) -> Side:
    """Where padding leaves the answers as they are without any.

    Many models count positions from the first column and read its token, whatever side their
    tokenizer pads for generation. Only heads that read the last column need it on the left.
    """
    given: Side = "left" if found.tokenizer.padding_side == "left" else "right"
    if not found.in_torch:
        return given
    classifies = architecture_of(found.config).endswith("ForSequenceClassification")
    # Without a padding token transformers takes the last column for the last token.
    reads_last = found.config.get("summary_type") == "last" or (
        classifies and found.config.get("pad_token_id") is None
    )
    return given if reads_last else "right"


def _write(tokenizer: Any, folder: Path) -> None:
    with quiet_transformers():
        tokenizer.save_pretrained(str(folder))
    file = folder / TOKENIZER_CONFIG_FILE
    kept = {name: v for name, v in read_json(file).items() if name not in _ABOUT_LOADING}
    text = json.dumps(kept, indent=1, sort_keys=True, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")


def _differs(tokenizer: Any, folder: Path, settings: TextSettings) -> str:
    """How the saved files fail to give the tokenizer's own tokens; empty if they do not."""
    whole = settings.model_copy(update={"max_tokens": None})
    try:
        found = load_tokenizer(folder, whole).encode(_PROBES)
    except TrtInt8Error as error:
        return f"cannot be loaded ({first_line(error)})"
    wanted = [list(tokenizer(*probe)["input_ids"]) for probe in _PROBES]
    return "" if [each.ids.tolist() for each in found] == wanted else "give other tokens"


def _remove(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
