"""Stage: the vocabulary, a CLIP byte-pair tokenizer in which each word of the captions is one token."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from ...templates import OBJECT_TEMPLATES, STYLE_TEMPLATES
from ..glyphs import INKS, PAPERS, PENS, SIZES, SLANTS

__all__ = ["GENERIC_WORD", "MAX_TOKENS", "POCKET_TEMPLATES", "write_tokenizer"]

GENERIC_WORD = "glyph"
"""The word for any class, whose embedding initialises tokens, as "object" does for photos."""

POCKET_TEMPLATES = (
    *OBJECT_TEMPLATES,
    "a drawing of a {}",
    "a sketch of a {}",
    "a picture of a {}",
    "an image of the {}",
    "{}",
)
"""The templates of the training captions."""

_START, _END = "<|startoftext|>", "<|endoftext|>"
MAX_TOKENS = 77


def write_tokenizer(folder: Path, class_words: list[str]) -> CLIPTokenizer:
    """Write ``vocab.json`` and ``merges.txt`` in CLIP's layout and read them back; existing files are kept.

    Equally frequent merges have another order in each training, and so have the words' ids. A resumed run must therefore
    use the tokenizer with which its text tower was trained.
    """
    plain = " ".join([*POCKET_TEMPLATES, *STYLE_TEMPLATES]).replace("{}", " ")
    extra = [
        *INKS,
        *PAPERS,
        *SIZES,
        *PENS,
        *SLANTS,
        "on",
        "paper",
        GENERIC_WORD,
        "thing",
        "object",
        "person",
        "a",
        "an",
        "and",
    ]
    words = sorted({word for word in [*re.findall(r"[a-z]+|-", plain), *extra, *class_words] if word})
    if not (folder / "vocab.json").exists():
        _train(folder, words)
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    broken = [word for word in words if len(tokenizer(word)["input_ids"]) != 3]
    if broken:
        raise RuntimeError(f"these words are not single tokens: {broken[:10]}")
    return tokenizer


def _train(folder: Path, words: list[str]) -> None:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    bpe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    bpe.train_from_iterator(
        words,
        trainers.BpeTrainer(
            vocab_size=20_000,
            min_frequency=0,
            end_of_word_suffix="</w>",
            initial_alphabet=alphabet,
            show_progress=False,
        ),
    )
    merges = [tuple(merge) for merge in json.loads(bpe.to_str())["model"]["merges"]]
    pieces = [*alphabet, *(byte + "</w>" for byte in alphabet), *("".join(merge) for merge in merges), _START, _END]
    vocab = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges), encoding="utf-8")
    special = {"bos_token": _START, "eos_token": _END, "unk_token": _END, "pad_token": _END}
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": MAX_TOKENS, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    (folder / "special_tokens_map.json").write_text(json.dumps(special, indent=2), encoding="utf-8")
