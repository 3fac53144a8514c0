"""Subgraph blueprints in ComfyUI's page: the search lists them, adds them to the canvas, and they run with one click."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from .browser import add_from_search, change, clear, finished, press_run
from .server import Server
from .test_page_layout import nodes2

__all__ = ["nodes2"]

pytestmark = [pytest.mark.host, pytest.mark.slow]

BLUEPRINTS = {path.stem for path in (Path(__file__).parents[2] / "subgraphs").glob("*.json")}
JOIN = """([names, links]) => {
    const graph = app.graph, nodes = [...graph._nodes];
    for (const name of names) { const node = LiteGraph.createNode(name); graph.add(node); nodes.push(node); }
    for (const [from, output, to, input] of links) {
        const source = nodes[from], target = nodes[to];
        source.connect(source.outputs.findIndex(o => o.name === output), target, target.inputs.findIndex(i => i.name === input));
    }
    return nodes.map(node => node.id);
}"""
"""Adds nodes to those that are there, and connects all by their places in the list."""
FROM_POCKET = [("MODEL", "model"), ("CLIP", "clip"), ("VAE", "vae"), ("CLIP space", "clip_space")]


def test_blueprints_are_offered_by_the_server(server: Server, comfyui: Path) -> None:
    if not (comfyui / "app" / "subgraph_manager.py").is_file():
        pytest.skip("this ComfyUI offers no blueprints")
    offered = [each for each in server.get("/global_subgraphs").values() if each["source"] == "custom_node"]
    assert {each["name"] for each in offered} == BLUEPRINTS
    assert {each["info"]["node_pack"] for each in offered} == {"custom_nodes.mcti"}


def test_blueprints_on_the_canvas_run_by_a_click(server: Server, page: Any) -> None:
    clear(page)
    add_from_search(page, "Train and test")
    change(page, {"Train and test": {"steps": 15, "batch_size": 20, "lr": 0.02, "gamma": 0.1}})
    train = [(1, output, 0, name) for output, name in FROM_POCKET]
    train += [(1, "examples", 0, "examples"), (1, "held-out examples", 0, "held_out")]
    train += [(0, "report", 2, "source"), (0, "samples", 3, "images")]
    *_, report, samples = page.evaluate(JOIN, [["MCTI_Pocket", "PreviewAny", "PreviewImage"], train])
    shown = run_by_a_click(server, page)
    assert "held-out images, 10 classes" in shown[str(report)]["text"][0]
    assert len(shown[str(samples)]["images"]) == 1

    add_from_search(page, "Classify and route")
    route = [(1, output, 4, name) for output, name in FROM_POCKET]
    route += [(0, "tokens", 4, "tokens"), (1, "contact sheet", 4, "images")]
    route += [(4, "labels", 5, "source"), (4, "matching", 6, "images"), (4, "unmatched", 7, "images")]
    *_, labels, matching, unmatched = page.evaluate(JOIN, [["PreviewAny", "PreviewImage", "PreviewImage"], route])
    shown = run_by_a_click(server, page)
    assert re.fullmatch(r"\d", shown[str(labels)]["text"][0])
    assert len(shown[str(matching)]["images"]) == 1
    assert str(unmatched) not in shown  # no image is left for it


def run_by_a_click(server: Server, page: Any) -> dict[str, Any]:
    """What the nodes show, by their ids."""
    runs = len(server.get("/history"))
    press_run(page)
    *_, run = finished(server, runs + 1)
    assert run["status"]["status_str"] == "success", run["status"]
    return run["outputs"]
