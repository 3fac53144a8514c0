"""ComfyUI's page in a browser: the sample workflows load and equal the graphs of ``api/``; search and cancelling work."""

from __future__ import annotations

import json
import re
import urllib.parse
from pathlib import Path
from typing import Any

import pytest

from .browser import add_from_search, change, clear, finished, load, need_page_of_today, press_run
from .server import Server, graph

pytestmark = [pytest.mark.host, pytest.mark.slow]

WORKFLOWS = sorted((Path(__file__).parents[2] / "workflows").glob("*.json"))
CHOOSES_A_FILE = {"CheckpointLoaderSimple", "MCTI_ExamplesFromFolder", "MCTI_LoadClipSpace", "MCTI_LoadTokens"}
"""Nodes of the samples that name a file of the user's, which the tests' server does not have."""


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_it_loads_with_nothing_missing(page: Any, path: Path) -> None:
    load(page, path)
    nodes = page.evaluate("app.graph._nodes.map(n => [`${n.id}`, n.type, n.type in LiteGraph.registered_node_types])")
    saved = json.loads(path.read_text(encoding="utf-8"))["nodes"]
    assert sorted(map(tuple, nodes)) == sorted((str(node["id"]), node["type"], True) for node in saved)
    page.wait_for_timeout(1000)  # the page looks at the values after it has shown the nodes
    wrong = page.evaluate("app.graph._nodes.filter(n => n.has_errors).map(n => n.type)")
    assert set(wrong) <= CHOOSES_A_FILE


def test_no_text_and_no_widget_is_cut_off(page: Any, path: Path) -> None:
    load(page, path)
    sizes = "app.graph._nodes.map(n => [n.title, [...n.size], [...n.computeSize()]])"
    for title, size, least in page.evaluate(sizes):
        assert size[0] >= least[0], title
        assert size[1] >= least[1], title


def test_what_the_page_sends_is_the_graph_of_the_host_tests(server: Server, page: Any, path: Path) -> None:
    load(page, path)
    sent = page.evaluate("async () => (await app.graphToPrompt()).output")
    assert {key: as_the_host_reads(server, node) for key, node in sent.items()} == graph(path.stem.split()[0])


def test_it_is_offered_as_a_template_with_a_thumbnail(server: Server, path: Path) -> None:
    assert path.stem in server.get("/workflow_templates")["mcti"]
    place = "/api/workflow_templates/mcti/" + urllib.parse.quote(path.stem)
    assert json.loads(server.read(place + ".json")) == json.loads(path.read_text(encoding="utf-8"))
    assert server.read(place + ".jpg").startswith(b"\xff\xd8\xff")


@pytest.mark.parametrize("words", ["textual inversion", "few-shot"])
def test_search_by_other_words_finds_training(server: Server, page: Any, words: str) -> None:
    need_page_of_today(server)
    clear(page)
    add_from_search(page, "Train MC-TI Tokens", words)
    assert page.evaluate("app.graph._nodes.map(node => node.type)") == ["MCTI_TrainTokens"]


def test_training_is_cancelled_by_a_click(server: Server, page: Any) -> None:
    load(page, WORKFLOWS[0])
    change(page, {"MCTI_TrainTokens": {"steps": 5000, "seed": 1}})
    page.evaluate("window.step = 0; app.api.addEventListener('progress', e => window.step = e.detail.value)")
    done = len(server.get("/history"))
    press_run(page)
    page.wait_for_function("window.step >= 3", timeout=120_000)
    page.get_by_role("button", name=re.compile("cancel|interrupt", re.IGNORECASE)).first.click()
    *_, run = finished(server, done + 1)
    assert "execution_interrupted" in dict(run["status"]["messages"])


def as_the_host_reads(server: Server, node: dict[str, Any]) -> dict[str, Any]:
    """Without the page's own: titles, and widgets that the node does not have on the server or has in later versions only."""
    known = server.get(f"/object_info/{node['class_type']}")[node["class_type"]]["input"]
    names = {name for kind in ("required", "optional") for name in known.get(kind, {})} - {"bit_depth"}
    return {
        "class_type": node["class_type"],
        "inputs": {key: value for key, value in node["inputs"].items() if key in names},
    }
