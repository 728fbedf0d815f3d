"""Tiny models that read text, with tokenizers that split words, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer, UnigramTrainer, WordPieceTrainer

from tests.support.bundles import fill, manifest_of
from tests.support.tiny_transformers import tiny_backbone
from trt_int8.graph.export import export_float
from trt_int8.model.huggingface import load_model
from trt_int8.model.source import resolve_source
from trt_int8.pipeline.data import shapes_of
from trt_int8.runtime.backend import Feeds, Outputs
from trt_int8.runtime.buckets import Buckets, buckets_of
from trt_int8.runtime.mapping import MapOptions, MapRun, map_requests
from trt_int8.runtime.packing import DEFAULT_BATCH_TOKENS
from trt_int8.runtime.padding import Side
from trt_int8.runtime.tensors import Signature, read_signature
from trt_int8.runtime.text.session import TextSession
from trt_int8.runtime.text.settings import read_settings
from trt_int8.runtime.text.tokens import load_tokenizer
from trt_int8.spec.manifest import MANIFEST_NAME
from trt_int8.spec.shapes import bind_shapes, parse_shapes
from trt_int8.spec.text import TOKENIZER_FOLDER

LONGEST = 40
SHAPES = f"batch=1:2:4,seq=8:16:{LONGEST}"
BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROBERTA_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
_LINES = (
    "The quick brown fox jumps over the lazy dog, again and again.",
    "Unbelievable! Marie Curie was born in Warsaw in 1867; she moved to Paris.",
    "naïve café — 東京 🙂 שלום עולם a b c d e f g h i j k l m n o p q r s t u v w x y z",
)


def write_wordpiece(folder: Path) -> None:
    """A cased WordPiece tokenizer as BERT has it: about 200 pieces, so that most words split."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = WordPieceTrainer(
        vocab_size=200, special_tokens=list(BERT_SPECIAL), show_progress=False
    )
    tokenizer.train_from_iterator(_LINES, trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer.decoder = decoders.WordPiece()
    _save(tokenizer, folder, BERT_SPECIAL, ["input_ids", "token_type_ids", "attention_mask"])


def write_byte_bpe(folder: Path) -> None:
    """A byte-level BPE tokenizer as RoBERTa has it: any character, and offsets that are trimmed."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(
        vocab_size=300,
        special_tokens=list(ROBERTA_SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_LINES, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), add_prefix_space=False
    )
    tokenizer.decoder = decoders.ByteLevel()
    _save(tokenizer, folder, ROBERTA_SPECIAL, ["input_ids", "attention_mask"])


def write_unigram(folder: Path) -> None:
    """A SentencePiece-like tokenizer for which the whole text is one word."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Replace(Regex(" {2,}"), " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    trainer = UnigramTrainer(
        vocab_size=120,
        special_tokens=list(ROBERTA_SPECIAL),
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(_LINES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    tokenizer.decoder = decoders.Metaspace()
    _save(tokenizer, folder, ROBERTA_SPECIAL, ["input_ids", "attention_mask"])


def _save(tokenizer: Tokenizer, folder: Path, special: tuple[str, ...], inputs: list[str]) -> None:
    named = dict(zip(("cls_token", "pad_token", "sep_token", "unk_token"), special, strict=False))
    if special == BERT_SPECIAL:
        named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]"}
        named["sep_token"] = "[SEP]"
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=LONGEST, model_input_names=inputs, **named
    )
    fast.save_pretrained(folder)


class OrtSession:
    """What a `Session` is for texts: ONNX Runtime below the real batching."""

    def __init__(self, path: Path, signature: Signature, pad_values: Mapping[str, int]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self.signature, self.pad_values = signature, pad_values
        self.buckets: Buckets | None = buckets_of(signature)
        self.workers = 1
        self.pad_side: Side = "right"
        self.closed = False
        self.batches: list[tuple[int, ...]] = []

    def submit(self, feeds: Feeds) -> Future[Outputs]:
        future: Future[Outputs] = Future()
        self.batches.append(next(iter(feeds.values())).shape)
        names = [output.name for output in self.signature.outputs]
        future.set_result(dict(zip(names, self._session.run(names, dict(feeds)), strict=True)))
        return future

    def map(self, requests: Iterable[Feeds], *, max_batch_tokens: int | None = None) -> MapRun:
        most = max_batch_tokens or DEFAULT_BATCH_TOKENS
        return map_requests(self, requests, MapOptions(max_batch_tokens=most))

    def close(self) -> None:
        self.closed = True


class TinyText:
    """A model of random weights, its folder, its ONNX file and a text session over it."""

    def __init__(self, folder: Path, write_tokenizer: Any, kind: str, **config: Any) -> None:
        folder.mkdir(parents=True)
        write_tokenizer(folder)
        self.folder, self.path = folder, folder / "model.onnx"
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        size = len(self.tokenizer)
        self.model = tiny_backbone("Bert", kind, vocab_size=size, **config)
        self.model.save_pretrained(folder)
        loaded = load_model(resolve_source(str(folder)))
        graph = export_float(loaded)
        onnx.save(graph, str(self.path))
        axes = {each.name: each.axes for each in loaded.inputs}
        shapes = shapes_of(graph, bind_shapes(axes, parse_shapes(SHAPES)))
        self.signature = read_signature(self.path.read_bytes(), (shapes,))
        self.settings = read_settings(folder, self.signature)

    def open(self, **changes: Any) -> TextSession:
        """A text session; `changes` of its settings, or `truncate`."""
        truncate = changes.pop("truncate", True)
        settings = self.settings.model_copy(update=changes)
        session = OrtSession(self.path, self.signature, {"input_ids": settings.pad_token_id})
        tokenizer = load_tokenizer(self.folder, settings)
        return TextSession(session, tokenizer, settings, truncate=truncate)

    def bundle(self, folder: Path, *, with_tokenizer: bool = True) -> Path:
        """A bundle with the float model for both twins, and no engines."""
        data = self.path.read_bytes()
        fill(folder, dict.fromkeys(("model.int8.onnx", "model.fp16.onnx"), data))
        known: dict[str, Any] = {"profiles": self.signature.profiles}
        if with_tokenizer:
            files = [self.folder / name for name in ("tokenizer.json", "tokenizer_config.json")]
            fill(folder / TOKENIZER_FOLDER, {each.name: each.read_bytes() for each in files})
            known["text"] = self.settings
        manifest = manifest_of(folder).model_copy(update=known)
        (folder / MANIFEST_NAME).write_text(manifest.to_json(), encoding="utf-8")
        return folder

    def outputs(self, *texts: str) -> dict[str, np.ndarray[Any, Any]]:
        """What ONNX Runtime gives for one text or pair that transformers tokenizes; no padding."""
        read = self.tokenizer(*texts, truncation=True, max_length=LONGEST, return_tensors="np")
        names = [given.name for given in self.signature.inputs]
        session = onnxruntime.InferenceSession(str(self.path))
        found = session.run(None, {name: read[name].astype(np.int64) for name in names})
        return {
            output.name: np.asarray(value[0])
            for output, value in zip(self.signature.outputs, found, strict=True)
        }


class ModelOutput(dict[str, Any]):
    """What transformers' pipeline reads its logits from."""

    def __init__(self, logits: np.ndarray) -> None:
        super().__init__(logits=torch.from_numpy(logits))
        self.logits = self["logits"]


def scores_of_pipeline(model: TinyText, *texts: str) -> dict[str, float]:
    pipeline = transformers.TextClassificationPipeline(model=model.model, tokenizer=model.tokenizer)
    logits = model.outputs(*texts)["logits"]
    found = pipeline.postprocess(ModelOutput(logits[None]), top_k=None)
    return {each["label"]: each["score"] for each in found}
