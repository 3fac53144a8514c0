"""The help pages match the nodes. ComfyUI looks for docs/<node>/<language>.md, then for docs/<node>.md, which is English."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .schema import ROOT, messages, node_schemas

DOCS = ROOT / "web" / "docs"
NODES = node_schemas()
LANGUAGES = ("en", "ja", "zh")
MESSAGES = messages()
PAGES = [(node, language) for node in NODES for language in LANGUAGES]


def page(node: str, language: str = "en") -> Path:
    return DOCS / f"{node}.md" if language == "en" else DOCS / node / f"{language}.md"


def read(node: str, language: str = "en") -> str:
    return page(node, language).read_text(encoding="utf-8")


def rows(text: str, heading: str) -> list[list[str]]:
    """The cells of the table below a heading."""
    section = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def shown(default: Any) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    return f"{default:g}" if isinstance(default, float) else str(default) or "empty"


def quoted(text: str) -> Iterator[str]:
    """Messages: what is bold and alone on the first line of a point, with an ellipsis for what is filled in."""
    yield from re.findall(r"^- \*\*(.+)\*\*\\?$", text, re.MULTILINE)


@pytest.mark.parametrize("node", NODES)
def test_no_id_is_both_an_inputs_and_an_outputs(node: str) -> None:
    """ComfyUI before v0.4 loads none of a pack's nodes where one has such an id."""
    ids = [port.id for port in (*NODES[node].inputs, *NODES[node].outputs)]
    assert len(set(ids)) == len(ids)


def test_every_page_is_of_a_node() -> None:
    assert {path for path in DOCS.rglob("*.md")} == {page(*each) for each in PAGES}


@pytest.mark.parametrize("node", NODES)
def test_the_tables_name_every_input_and_output_and_no_others(node: str) -> None:
    text = read(node)
    assert [row[0].split("<br>")[0] for row in rows(text, "Inputs")] == [f"`{port.id}`" for port in NODES[node].inputs]
    assert [row[0] for row in rows(text, "Outputs")] == [port.name for port in NODES[node].outputs]


@pytest.mark.parametrize("node", NODES)
def test_the_defaults_are_those_of_the_code(node: str) -> None:
    for row, port in zip(rows(read(node), "Inputs"), NODES[node].inputs, strict=True):
        if port.default is not None:
            assert row[0].split("<br>")[1:] == [shown(port.default)], port.id


@pytest.mark.parametrize(("node", "language"), PAGES)
def test_a_page_opens_with_a_sentence_and_the_nodes_picture(node: str, language: str) -> None:
    opening, picture = read(node, language).split("\n\n")[:2]
    assert "\n" not in opening
    assert opening[-1] in ".。"
    assert f"](images/{node}.png)" in picture


@pytest.mark.parametrize(("node", "language"), PAGES)
def test_pictures_are_there(node: str, language: str) -> None:
    for picture in re.findall(r"!\[.*?\]\((.+?)\)", read(node, language)):
        assert (DOCS / picture).is_file(), picture  # ComfyUI looks from docs/, whatever the page


@pytest.mark.parametrize(("node", "language"), PAGES)
def test_links_lead_out(node: str, language: str) -> None:
    """Others would be looked for below ComfyUI's own page, where no help page is."""
    for link in re.findall(r"(?<!!)\[.*?\]\((.+?)\)", re.sub(r"!\[.*?\]\(.+?\)", "", read(node, language))):
        assert link.startswith("https://"), link


@pytest.mark.parametrize(("node", "language"), PAGES)
def test_messages_are_those_of_the_code(node: str, language: str) -> None:
    for message in quoted(read(node, language)):
        parts = [re.escape(part) for part in message.split("…")]
        assert any(re.search(".*".join(parts), text, re.DOTALL) for text in MESSAGES), message


@pytest.mark.parametrize("language", LANGUAGES[1:])
@pytest.mark.parametrize("node", NODES)
def test_translations_tell_of_the_same_messages(node: str, language: str) -> None:
    assert set(quoted(read(node, language))) <= set(quoted(read(node)))


@pytest.mark.parametrize("language", LANGUAGES[1:])
@pytest.mark.parametrize("node", NODES)
def test_translations_keep_code_and_numbers(node: str, language: str) -> None:
    """What is to be typed is the same in all languages, but for example names and the widgets' own labels."""
    files = re.findall(r"`(models/[^`]+|ComfyUI/[^`]+|\.[a-z]+)`", read(node, language))
    assert set(files) <= set(re.findall(r"`([^`]+)`", read(node)))
