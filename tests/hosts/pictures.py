"""Draw the pictures of the help pages, of the README and of the templates anew, from ComfyUI's own page.

    python -m tests.hosts.pictures ~/ComfyUI
    python -m tests.hosts.pictures ~/ComfyUI --templates 4 5

Runs the templates that need no checkpoint, each for about a minute, on the classic canvas. Needs Chromium and ``playwright``.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from .browser import change, clear, finished, load, opened_page, press_run
from .server import Server

__all__ = ["main"]

ROOT = Path(__file__).parents[2]
TEMPLATES = {path.stem.split()[0]: path for path in sorted((ROOT / "workflows").glob("*.json"))}
WITHOUT_CHECKPOINT = ("1", "4", "5", "6", "7", "8")
EXAMPLES = {
    "MCTI_AddExamples": {"label": "blue mug"},
    "MCTI_ExamplesFromFolder": {"folder": "my-things"},
    "MCTI_LoadClipSpace": {"clip_file": "clip-vit-large-patch14.safetensors"},
    "MCTI_LoadTokens": {"file": "my-things.safetensors"},
    "MCTI_Pocket": {"shots": 5},
}
"""Values of widgets whose defaults show nothing."""
ZOOM, MARGIN = 1.25, 40
"""Pixels per unit of the graph, and units around a node."""
CANVAS_ONLY = "body * {visibility: hidden} #graph-canvas, .dom-widget, .dom-widget * {visibility: visible}"
THUMBNAIL, LEAST_SIDE = 560, 700
"""Pixels of a template's thumbnail, and the least side of the square of the graph that it shows."""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comfyui", type=Path, help="ComfyUI's folder")
    parser.add_argument("--templates", nargs="*", default=WITHOUT_CHECKPOINT, choices=WITHOUT_CHECKPOINT)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "models").mkdir()
        with Server(given.comfyui.expanduser(), Path(folder), cpu=True) as server, opened_page(server, False) as page:
            for number in given.templates:
                load(page, TEMPLATES[number])
                before = len(server.get("/history"))
                press_run(page)
                finished(server, before + 1)
                page.wait_for_timeout(4000)  # until the page has drawn all pictures
                thumbnail(page).save(TEMPLATES[number].with_suffix(".jpg"), quality=80)
                if number == "1":
                    whole(page).save(ROOT / "docs" / "images" / "quick-start.png", optimize=True)
            for path in sorted((ROOT / "web" / "docs").glob("MCTI_*.md")):
                picture_of_node(page, path.stem).save(path.parent / "images" / f"{path.stem}.png", optimize=True)


def picture_of_node(page: Any, kind: str) -> Image.Image:
    clear(page)
    page.evaluate("kind => app.graph.add(LiteGraph.createNode(kind))", kind)
    change(page, EXAMPLES)
    page.wait_for_timeout(700)  # until the page has hidden advanced inputs
    x, y, width, height = page.evaluate(
        """() => {
            const node = app.graph._nodes[0], least = node.computeSize();
            node.setSize([Math.max(360, least[0]), least[1]]);
            node.updateArea();
            return [...node.boundingRect];
        }"""
    )
    return _seen(page, x - MARGIN, y - MARGIN, width + 2 * MARGIN, height + 2 * MARGIN, ZOOM)


def thumbnail(page: Any) -> Image.Image:
    """The top right square of the last group."""
    x, y, width, height = page.evaluate(
        "[...app.graph._groups.at(-1).boundingRect ?? app.graph._groups.at(-1)._bounding]"
    )
    side = min(max(width, LEAST_SIDE), height)
    return _seen(page, x + width - side, y, side, side, THUMBNAIL / side)


def whole(page: Any) -> Image.Image:
    """All groups."""
    all_of_them = page.evaluate("app.graph._groups.map(group => [...group._bounding])")
    left, top = (min(box[i] for box in all_of_them) for i in (0, 1))
    right, bottom = (max(box[i] + box[i + 2] for box in all_of_them) for i in (0, 1))
    return _seen(page, left, top, right - left, bottom - top, 0.8)


def _seen(page: Any, x: float, y: float, width: float, height: float, zoom: float) -> Image.Image:
    """A part of the graph, in its own units, drawn at this zoom, without the page's panels."""
    left, top = page.evaluate(
        """([x, y, zoom]) => {
            app.canvas.ds.scale = zoom;
            app.canvas.ds.offset[0] = -x;
            app.canvas.ds.offset[1] = -y;
            app.canvas.setDirty(true, true);
            const canvas = app.canvas.canvas.getBoundingClientRect();
            return [canvas.left, canvas.top];
        }""",
        [x, y, zoom],
    )
    style = page.add_style_tag(content=CANVAS_ONLY)
    page.wait_for_timeout(1500)
    clip = {"x": left, "y": top, "width": width * zoom, "height": height * zoom}
    picture = Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")
    style.evaluate("style => style.remove()")
    return picture


if __name__ == "__main__":
    main()
