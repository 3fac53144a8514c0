"""Layout of the sample workflows on the classic canvas and in Nodes 2.0: nothing overlaps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .browser import boxes, load, need_page_of_today, outside_groups, overlapping
from .server import Server

pytestmark = [pytest.mark.host, pytest.mark.slow]

WORKFLOWS = sorted((Path(__file__).parents[2] / "workflows").glob("*.json"))
LEAST_ZOOM = {"1": 0.7}
"""Below about a half the classic canvas draws no text; the first template is to be read as it opens."""
_NOTES = "[data-node-id] .comfy-markdown-content, .comfy-markdown .tiptap"
_HEIGHTS = f"[...document.querySelectorAll('{_NOTES}')].map(note => [note.scrollHeight, note.clientHeight])"


@pytest.fixture(scope="module", params=[False, True], ids=["classic", "nodes2"])
def nodes2(server: Server, request: pytest.FixtureRequest) -> bool:
    need_page_of_today(server)
    return request.param


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.stem)
def opened(page: Any, nodes2: bool, request: pytest.FixtureRequest) -> Any:
    load(page, request.param)
    drawn = page.evaluate("document.querySelectorAll('[data-node-id]').length")
    assert (drawn > 0) is nodes2
    return page


def test_layout_as_it_opens_overlaps_nowhere(opened: Any) -> None:
    assert overlapping(boxes(opened)) == []


def test_layout_as_it_opens_lies_within_its_groups(opened: Any) -> None:
    assert outside_groups(opened) == []


def test_note_as_it_opens_shows_its_whole_text(opened: Any) -> None:
    opened.wait_for_function(f"{_HEIGHTS}.some(([text, room]) => room > 0)")
    heights = [(text, room) for text, room in opened.evaluate(_HEIGHTS) if room]
    assert len(heights) == 1
    assert all(text <= room for text, room in heights), heights


def test_template_as_it_opens_can_be_read(opened: Any, request: pytest.FixtureRequest) -> None:
    number = request.node.callspec.params["opened"].stem.split()[0]
    assert opened.evaluate("app.canvas.ds.scale") >= LEAST_ZOOM.get(number, 0.6)
