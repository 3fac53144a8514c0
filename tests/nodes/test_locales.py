"""Names and tooltips in three languages: complete, and without extra entries."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from .schema import ROOT, node_schemas, written

LANGUAGES = ("en", "ja", "zh")
NODES = node_schemas()


def leaves(tree: dict[str, Any], *path: str) -> Iterator[tuple[tuple[str, ...], str]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, *path, key)
        else:
            yield (*path, key), value


def test_there_are_three_languages() -> None:
    assert sorted(path.name for path in (ROOT / "locales").iterdir()) == sorted(LANGUAGES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_input_and_output_is_named_and_no_others(language: str) -> None:
    texts = written(language)
    assert set(texts) == set(NODES)
    for name, node in NODES.items():
        assert set(texts[name]) == {"display_name", "description", "inputs", "outputs"}
        assert list(texts[name]["inputs"]) == [port.id for port in node.inputs]
        assert list(texts[name]["outputs"]) == [str(index) for index in range(len(node.outputs))]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_input_and_output_has_its_texts(language: str) -> None:
    for node in written(language).values():
        for port in (*node["inputs"].values(), *node["outputs"].values()):
            assert set(port) == {"name", "tooltip"}


@pytest.mark.parametrize("language", ["ja", "zh"])
def test_every_text_is_translated(language: str) -> None:
    texts = written(language)
    english = dict(leaves(written("en")))
    for path, text in leaves(texts):
        assert text.strip()
        if path[-1] != "name":  # MODEL, CLIP, VAE and gamma are called so everywhere
            assert text != english.get(path), path
            assert re.search(r"[\u3040-\u30ff\u4e00-\u9fff]", text), path


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_holds_what_vue_i18n_would_take_for_syntax(language: str) -> None:
    for path, text in leaves(written(language)):
        assert not re.search(r"[{}@|]", re.sub(r"\{'[{}@|]+'\}", "", text)), path


@pytest.mark.parametrize("language", ["ja", "zh"])
def test_translations_keep_what_is_to_be_typed(language: str) -> None:
    typed = r"\{'\{\}'\}|embedding:|models/\w+|ComfyUI/\w+|\w+/clip[\w-]*\w|\b0\b"
    english = dict(leaves(written("en")))
    for path, text in leaves(written(language)):
        wanted = set(re.findall(typed, english.get(path, ""), re.IGNORECASE))
        assert wanted <= set(re.findall(typed, text, re.IGNORECASE | re.ASCII)), path
