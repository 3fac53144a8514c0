"""The sample workflows and subgraph blueprints are complete, fit the current nodes, and are the graphs that the host tests run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from .schema import ROOT, node_schemas

WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
GRAPHS = ROOT / "tests" / "hosts" / "api"
NODES = node_schemas()
STOCK = {
    "CLIPTextEncode",
    "CheckpointLoaderSimple",
    "CreateVideo",
    "EmptyLatentImage",
    "GetVideoComponents",
    "KSampler",
    "PreviewAny",
    "PreviewImage",
    "RebatchImages",
    "SaveImage",
    "StringConcatenate",
    "VAEDecode",
}
"""Nodes of ComfyUI's own that v0.3.64 and later have."""
LATER = {"7": {"SaveImageTextDataSetToFolder"}}
"""Nodes of ComfyUI's own that a workflow's note says need a later version."""
PAGE_ONLY = {"MarkdownNote"}
AFTER_SEED = {"fixed", "increment", "decrement", "randomize"}
"""What the page shows below KSampler's seed; the host never hears of it."""


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(params=WORKFLOWS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def workflow(path: Path) -> dict[str, Any]:
    return read(path)


@pytest.fixture(params=sorted((ROOT / "subgraphs").glob("*.json")), ids=lambda path: path.stem)
def blueprint(request: pytest.FixtureRequest) -> dict[str, Any]:
    return read(request.param)


def test_there_are_eight_numbered_workflows_and_nothing_else():
    assert [path.stem.split()[0] for path in WORKFLOWS] == ["1", "2", "3", "4", "5", "6", "7", "8"]
    assert {path.stem for path in (ROOT / "workflows").iterdir()} == {path.stem for path in WORKFLOWS}


def test_a_square_thumbnail_lies_beside_each(path: Path):
    picture = path.with_suffix(".jpg")  # the only ending that ComfyUI's page asks for
    assert picture.stat().st_size < 80_000
    with Image.open(picture) as image:
        assert image.format == "JPEG"
        assert image.width == image.height >= 400


def test_each_has_an_id_of_its_own():
    """By which the page tells workflows apart."""
    assert len({read(path)["id"] for path in WORKFLOWS}) == len(WORKFLOWS)


def test_nodes_are_ours_or_known_stock_ones(path: Path, workflow: dict[str, Any]):
    later = LATER.get(path.stem.split()[0], set())
    assert {node["type"] for node in workflow["nodes"]} <= NODES.keys() | STOCK | PAGE_ONLY | later
    (note,) = [node["widgets_values"][0] for node in workflow["nodes"] if node["type"] in PAGE_ONLY]
    assert ("or newer" in note) == bool(later)


def test_inputs_and_outputs_are_the_nodes_own(workflow: dict[str, Any]):
    for node in workflow["nodes"]:
        if node["type"] in NODES:
            schema = NODES[node["type"]]
            assert {each["name"] for each in node["inputs"]} == {port.id for port in schema.inputs}, node["type"]
            assert [each["name"] for each in node["outputs"]] == [port.name for port in schema.outputs], node["type"]


def test_each_widget_has_a_value(workflow: dict[str, Any]):
    for node in workflow["nodes"]:
        if node["type"] not in PAGE_ONLY:
            widgets = [each for each in node["inputs"] if "widget" in each]
            more = node["type"] == "KSampler"
            assert len(node.get("widgets_values") or []) == len(widgets) + more, node["type"]


def test_links_have_both_ends(workflow: dict[str, Any]):
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for link, source, output, target, place, kind in workflow["links"]:
        assert link in nodes[source]["outputs"][output]["links"]
        assert nodes[target]["inputs"][place]["link"] == link
        assert kind in (nodes[source]["outputs"][output]["type"], "*")
    linked = {each["link"] for node in nodes.values() for each in node.get("inputs", []) if each["link"] is not None}
    assert linked == {link[0] for link in workflow["links"]}


def test_blueprint_holds_one_subgraph_of_nodes_as_they_are(blueprint: dict[str, Any]):
    """The page takes a blueprint only if its one node is of its one subgraph."""
    (outer,), (inner,) = blueprint["nodes"], blueprint["definitions"]["subgraphs"]
    assert (outer["type"], outer["title"]) == (inner["id"], inner["name"])
    assert blueprint["extra"]["BlueprintDescription"] == inner["description"]
    assert [port["name"] for port in outer["inputs"]] == [port["name"] for port in inner["inputs"]]
    assert [port["name"] for port in outer["outputs"]] == [port["name"] for port in inner["outputs"]]
    test_inputs_and_outputs_are_the_nodes_own(inner)
    test_each_widget_has_a_value(inner)


def test_links_of_a_blueprint_have_both_ends(blueprint: dict[str, Any]):
    (inner,) = blueprint["definitions"]["subgraphs"]
    nodes = {node["id"]: node for node in inner["nodes"]}
    for link in inner["links"]:
        outputs = nodes[link["origin_id"]]["outputs"] if link["origin_id"] != -10 else inner["inputs"]
        inputs = nodes[link["target_id"]]["inputs"] if link["target_id"] != -20 else inner["outputs"]
        source, target = outputs[link["origin_slot"]], inputs[link["target_slot"]]
        assert link["type"] == source["type"] == target["type"]
        assert link["id"] in (source.get("links") or source.get("linkIds"))
        assert link["id"] == target.get("link") or link["id"] in target["linkIds"]


def test_it_is_the_graph_that_the_host_tests_run(path: Path, workflow: dict[str, Any]):
    (graph,) = [file for file in GRAPHS.glob("*.json") if file.stem.split("_")[0] == path.stem.split()[0]]
    assert as_graph(workflow) == read(graph)


def test_no_node_lies_over_another_and_each_is_in_a_group(workflow: dict[str, Any]):
    boxes = [box(node) for node in workflow["nodes"]]
    for index, one in enumerate(boxes):
        assert not any(overlap(one, other) for other in boxes[index + 1 :])
        assert any(holds(group["bounding"], one) for group in workflow["groups"])


def test_note_of_a_workflow_names_where_files_go(workflow: dict[str, Any]):
    (note,) = [node for node in workflow["nodes"] if node["type"] == "MarkdownNote"]
    (text,) = note["widgets_values"]
    assert text.startswith("# ")
    assert "`" not in text  # Nodes 2.0 draws code in a coloured note in a colour that cannot be read
    saves = {"SaveImage", "MCTI_SaveTokens"} & {node["type"] for node in workflow["nodes"]}
    assert ("output" in text) == bool(saves)


def as_graph(workflow: dict[str, Any]) -> dict[str, Any]:
    """What ComfyUI's page makes of a workflow when Run is pressed; test_page.py compares with the page's own."""
    links = {link: [str(source), output] for link, source, output, *_ in workflow["links"]}
    nodes = [node for node in workflow["nodes"] if node["type"] not in PAGE_ONLY]
    return {str(node["id"]): {"class_type": node["type"], "inputs": dict(inputs(node, links))} for node in nodes}


def inputs(node: dict[str, Any], links: dict[int, list[Any]]) -> Iterator[tuple[str, Any]]:
    values = list(node.get("widgets_values") or [])
    for each in node["inputs"]:
        value = values.pop(0) if "widget" in each else None
        if node["type"] == "KSampler" and each["name"] == "seed":
            assert values.pop(0) in AFTER_SEED
        if each["link"] is not None:
            yield each["name"], links[each["link"]]
        elif "widget" in each:
            yield each["name"], value


def box(node: dict[str, Any]) -> tuple[float, float, float, float]:
    """Left, upper, right and lower edge, with the title."""
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - 30, x + width, y + height


def overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def holds(bounding: list[float], inner: tuple[float, ...]) -> bool:
    x, y, width, height = bounding
    return x <= inner[0] and y <= inner[1] and inner[2] <= x + width and inner[3] <= y + height
