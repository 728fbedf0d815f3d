"""A Hugging Face model folder on disk: seeded two-layer BERT with a word tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import transformers
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from tests.support.tiny_transformers import VOCABULARY, tiny_backbone

WORDS = tuple(f"word{number}" for number in range(VOCABULARY - 5))
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def write_tokenizer(folder: Path, max_length: int = 40) -> None:
    """Save a tokenizer that knows `word0`, `word1`, … and the special tokens."""
    vocabulary = {token: index for index, token in enumerate(_SPECIAL + WORDS)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=max_length,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )
    fast.save_pretrained(folder)


def write_bert(folder: Path, *, sentence_head: bool = False, kind: str = "Model") -> Path:
    """Save model and tokenizer; with `sentence_head` as a sentence-transformers folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tiny_backbone("Bert", kind).save_pretrained(folder)
    write_tokenizer(folder)
    if sentence_head:
        modules = [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.Pooling"},
            {"idx": 2, "name": "2", "path": "2_Normalize", "type": "x.Normalize"},
        ]
        (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
        (folder / "1_Pooling").mkdir(exist_ok=True)
        config = {"word_embedding_dimension": 64, "pooling_mode_mean_tokens": True}
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def write_texts(path: Path, count: int = 24) -> Path:
    """Texts of 1 to 13 words, all different."""
    lines = [
        " ".join(WORDS[(7 * line + 3 * place) % len(WORDS)] for place in range(1 + line % 13))
        for line in range(count)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
