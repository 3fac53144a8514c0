"""ComfyUI's own page in a browser: the sample workflows load, are the graphs of ``api/``, and run by a click.

Needs Chromium (or ``CHROMIUM`` set to such a browser) and the Python package ``playwright``.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .server import Server, graph

pytestmark = [pytest.mark.host, pytest.mark.slow]

WORKFLOWS = sorted((Path(__file__).parents[2] / "workflows").glob("*.json"))
SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-sync", "--no-first-run"]
SWITCHES += ["--disable-background-networking", "--disable-component-update"]
READY = "window.app?.graph && window.app.extensionManager && document.querySelector('#graph-canvas')"
QUICK = {"MCTI_TrainTokens": {"steps": 15}, "MCTI_TrainingSettings": {"samples": 2}, "MCTI_Evaluate": {"at_most": 5}}


@pytest.fixture(scope="module")
def page(server: Server) -> Iterator[Any]:
    driver = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install playwright")
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        pytest.skip("no Chromium: install it, or set CHROMIUM to such a browser")
    server.post("/settings", {"Comfy.TutorialCompleted": True})  # or its dialog lies over everything
    with driver.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=SWITCHES)
        opened = chromium.new_page(viewport={"width": 1600, "height": 1000})
        opened.set_default_timeout(60_000)
        opened.goto(server.url)
        opened.wait_for_function(READY)
        yield opened
        chromium.close()


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_it_loads_with_nothing_missing(page: Any, path: Path) -> None:
    load(page, path)
    nodes = page.evaluate(
        "app.graph._nodes.map(n => [n.id, n.type, n.type in LiteGraph.registered_node_types, !!n.has_errors])"
    )
    saved = json.loads(path.read_text(encoding="utf-8"))["nodes"]
    assert sorted(map(tuple, nodes)) == sorted((node["id"], node["type"], True, False) for node in saved)


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


def test_the_quick_start_runs_by_a_click_and_shows_all(server: Server, page: Any) -> None:
    load(page, WORKFLOWS[0])
    change(page, QUICK)
    page.evaluate("window.previews = 0; app.api.addEventListener('b_preview', () => window.previews++)")
    press_run(page)
    (run,) = finished(server, 1)
    assert run["status"]["status_str"] == "success"
    pictures = {"6": 1, "7": 1, "8": 1, "15": 20, "17": 10, "18": 1}
    for node, count in pictures.items():
        page.wait_for_function("([id, n]) => app.graph.getNodeById(+id).imgs?.length === n", arg=[node, count])
    assert page.evaluate("window.previews") >= 1
    assert "10 classes" in text_of(page, 5)
    assert "embedding:0" in text_of(page, 19)


def test_training_is_cancelled_by_a_click(server: Server, page: Any) -> None:
    load(page, WORKFLOWS[0])
    change(page, {**QUICK, "MCTI_TrainTokens": {"steps": 5000, "seed": 1}})
    page.evaluate("window.step = 0; app.api.addEventListener('progress', e => window.step = e.detail.value)")
    done = len(server.get("/history"))
    press_run(page)
    page.wait_for_function("window.step >= 3", timeout=120_000)
    page.get_by_role("button", name=re.compile("cancel|interrupt", re.IGNORECASE)).first.click()
    *_, run = finished(server, done + 1)
    assert "execution_interrupted" in dict(run["status"]["messages"])


def load(page: Any, path: Path) -> None:
    page.evaluate("async graph => { await app.loadGraphData(graph) }", json.loads(path.read_text(encoding="utf-8")))
    page.wait_for_function("n => app.graph._nodes.length === n", arg=len(json.loads(path.read_text())["nodes"]))
    page.keyboard.press("Escape")  # a list of models that are not there


def change(page: Any, values: dict[str, dict[str, Any]]) -> None:
    """Other values for the widgets of nodes of a type."""
    script = """values => { for (const n of app.graph._nodes) for (const [name, value] of Object.entries(values[n.type] ?? {}))
                n.widgets.find(w => w.name === name).value = value }"""
    page.evaluate(script, values)


def press_run(page: Any) -> None:
    page.get_by_role("button", name="Run", exact=True).first.click()


def finished(server: Server, count: int, timeout: float = 300) -> list[dict[str, Any]]:
    """The history, when it holds so many runs."""
    end = time.monotonic() + timeout
    while len(server.get("/history")) < count:
        assert time.monotonic() < end, server.log()[-4000:]
        time.sleep(0.2)
    return list(server.get("/history").values())


def text_of(page: Any, node: int) -> str:
    page.wait_for_function("id => app.graph.getNodeById(id).widgets.some(w => w.value)", arg=node)
    return page.evaluate("id => app.graph.getNodeById(id).widgets.map(w => w.value).join()", node)


def as_the_host_reads(server: Server, node: dict[str, Any]) -> dict[str, Any]:
    """Without the page's own: titles, and widgets that the node does not have on the server."""
    known = server.get(f"/object_info/{node['class_type']}")[node["class_type"]]["input"]
    names = {name for kind in ("required", "optional") for name in known.get(kind, {})}
    return {
        "class_type": node["class_type"],
        "inputs": {key: value for key, value in node["inputs"].items() if key in names},
    }
