"""Names under which programs cannot add an embedding to CLIP's tokenizer."""

import json
import os
import re
from pathlib import Path

import pytest

from mcti_core.tokens.names import DEVICES, _words, words_among

COMFYUI = Path(os.environ.get("COMFYUI_PATH", "~/ComfyUI")).expanduser()


@pytest.mark.parametrize("name", ["cat", "token", "dog", "art", "0", "9", "vintage", "i", "photography", "ä", "ß", "é"])
def test_words_among_finds_words_of_clip(name):
    assert words_among(["my-" + name, name]) == [name]


@pytest.mark.parametrize("name", ["my-cat", "Cat", "猫", "teapot", "10", "cat-2", "cat</w>", "", "qzxv", "blue-mug"])
def test_words_among_leaves_other_names_alone(name):
    assert words_among([name]) == []


@pytest.mark.host
def test_words_are_those_of_comfyuis_tokenizer():
    path = COMFYUI / "comfy" / "sd1_tokenizer" / "vocab.json"
    if not path.exists():
        pytest.skip("no ComfyUI here")
    vocabulary = json.loads(path.read_text(encoding="utf-8"))
    devices = {name.lower() for name in DEVICES}  # no token is called so
    assert (
        _words()
        >= {word for word in vocabulary if re.fullmatch(r"[\w-]+", word) and (word.isascii() or len(word) == 1)}
        - devices
    )
    assert {word for word in _words() if word.isascii()} <= vocabulary.keys()
