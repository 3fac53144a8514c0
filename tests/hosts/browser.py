"""ComfyUI's own page in Chromium: open it, load a workflow, press buttons, measure what it shows.

Needs Chromium (or ``CHROMIUM`` set to such a browser) and the Python package ``playwright``.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from .server import Server

__all__ = [
    "Box",
    "add_from_search",
    "boxes",
    "change",
    "clear",
    "finished",
    "load",
    "need_page_of_today",
    "opened_page",
    "outside_groups",
    "overlapping",
    "press_run",
    "text_of",
]

SIZE = {"width": 1800, "height": 1000}
_SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-sync", "--no-first-run"]
_SWITCHES += ["--disable-background-networking", "--disable-component-update"]
_READY = "window.app?.graph?._nodes.length && window.app.extensionManager && document.querySelector('#graph-canvas')"
_BOXES = """() => {
    const ds = app.canvas.ds, canvas = app.canvas.canvas.getBoundingClientRect();
    return app.graph._nodes.map(node => {
        const element = document.querySelector(`[data-node-id="${node.id}"]`);
        if (!element) return [node.title, ...node.boundingRect];
        const parts = [element, ...element.querySelectorAll('button')].map(part => part.getBoundingClientRect());
        const seen = parts.filter(part => part.width && part.height);
        const left = Math.min(...seen.map(part => part.left)), top = Math.min(...seen.map(part => part.top));
        const right = Math.max(...seen.map(part => part.right)), bottom = Math.max(...seen.map(part => part.bottom));
        return [node.title, (left - canvas.left) / ds.scale - ds.offset[0], (top - canvas.top) / ds.scale - ds.offset[1],
                (right - left) / ds.scale, (bottom - top) / ds.scale];
    });
}"""
"""Nodes 2.0 draws a node as an element, some of whose buttons hang below it; the classic canvas knows a rectangle."""
_ROUNDING = 0.5


class Box(NamedTuple):
    """A node as the page draws it, title included, in the graph's units."""

    title: str
    x: float
    y: float
    width: float
    height: float


@contextmanager
def opened_page(server: Server, nodes2: bool) -> Iterator[Any]:
    """The server's page, on the classic canvas or in Nodes 2.0."""
    driver = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip("no Chromium: install it, or set CHROMIUM to such a browser")
    # the tutorial's dialog would lie over everything
    server.post("/settings", {"Comfy.TutorialCompleted": True, "Comfy.VueNodes.Enabled": nodes2})
    with driver.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=_SWITCHES)
        page = chromium.new_page(viewport=SIZE)
        page.set_default_timeout(90_000)
        page.goto(server.url)
        page.wait_for_function(_READY)
        page.evaluate("window.previews = 0; app.api.addEventListener('b_preview', () => window.previews++)")
        yield page
        chromium.close()


def need_page_of_today(server: Server) -> None:
    """Skip where the page is older than the one whose parts these tests know."""
    version = server.get("/system_stats")["system"]["comfyui_version"].lstrip("v").split(".")
    if tuple(map(int, version[:2])) < (0, 33):
        pytest.skip("this test is of the web frontend of ComfyUI 0.33.0 and newer")


def load(page: Any, path: Path) -> None:
    """Load a workflow as the list of templates does."""
    graph = json.loads(path.read_text(encoding="utf-8"))
    script = "async ([graph, name]) => { await app.loadGraphData(graph, true, true, name, {openSource: 'template'}) }"
    page.evaluate(script, [graph, path.stem])
    page.wait_for_function("n => app.graph._nodes.length === n", arg=len(graph["nodes"]))
    page.keyboard.press("Escape")  # a list of models that are not there


def boxes(page: Any) -> list[Box]:
    """All nodes, as soon as the page has come to rest."""
    before, now = None, page.evaluate(_BOXES)
    while before != now:
        page.wait_for_timeout(500)
        before, now = now, page.evaluate(_BOXES)
    return [Box(*box) for box in now]


def outside_groups(page: Any) -> list[Box]:
    """Nodes of which a part lies outside of every group."""
    groups = page.evaluate("app.graph._groups.map(group => [...group._bounding])")
    return [
        node
        for node in boxes(page)
        if not any(
            x <= node.x and y <= node.y and node.x + node.width <= x + wide and node.y + node.height <= y + high
            for x, y, wide, high in groups
        )
    ]


def overlapping(nodes: list[Box]) -> list[tuple[Box, Box]]:
    """Pairs of which one hides a part of the other."""
    pairs = [(one, other) for index, one in enumerate(nodes) for other in nodes[index + 1 :]]
    return [pair for pair in pairs if _overlap(*pair)]


def _overlap(one: Box, other: Box) -> bool:
    across = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
    down = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
    return min(across, down) > _ROUNDING


def change(page: Any, values: dict[str, dict[str, Any]]) -> None:
    """Set widgets: ``{"MCTI_TrainTokens": {"steps": 10}}`` for every node of a type or a title."""
    script = """values => {
        for (const node of app.graph._nodes)
            for (const [name, value] of Object.entries(values[node.type] ?? values[node.title] ?? {}))
                node.widgets.find(widget => widget.name === name).value = value;
    }"""
    page.evaluate(script, values)


def press_run(page: Any) -> None:
    page.get_by_role("button", name="Run", exact=True).first.click()


def finished(server: Server, count: int, timeout: float = 600) -> list[dict[str, Any]]:
    """The history, when it contains so many runs."""
    end = time.monotonic() + timeout
    while len(server.get("/history")) < count:
        assert time.monotonic() < end, server.log()[-4000:]
        time.sleep(0.2)
    return list(server.get("/history").values())


def text_of(page: Any, node: int) -> str:
    """What a "Preview as Text" node shows after a run."""
    page.wait_for_function("id => app.graph.getNodeById(id).widgets.some(w => w.value)", arg=node)
    return page.evaluate("id => app.graph.getNodeById(id).widgets.map(w => w.value).join()", node)


def clear(page: Any) -> None:
    """An empty canvas."""
    page.evaluate("app.graph.clear()")


def add_from_search(page: Any, name: str, words: str = "") -> None:
    """Double-click the canvas, type words (default: the node's name), choose the node, put it down."""
    x, y = SIZE["width"] // 2, SIZE["height"] // 3
    count = page.evaluate("app.graph._nodes.length")
    page.evaluate("app.canvas.ds.offset[1] += 5000; app.canvas.setDirty(true, true)")  # where no node is
    for _ in range(60):  # a page just opened overlooks clicks
        page.mouse.dblclick(x, y)
        page.wait_for_timeout(1000)
        if page.locator("[role=dialog] [role=combobox]").is_visible():
            break
    page.keyboard.type(words or name)
    page.locator("[data-testid=result-item]").filter(has_text=name).first.click()
    page.wait_for_function("n => app.graph._nodes.length === n", arg=count + 1)
    while page.evaluate(
        "app.canvas.state.ghostNodeId != null"
    ):  # it still follows the mouse, and Escape would remove it
        page.mouse.click(x, y)
        page.wait_for_timeout(200)
