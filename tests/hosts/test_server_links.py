"""Values through links, which the host does not check against a widget's limits: one sentence each, and the server keeps running."""

from __future__ import annotations

import json
import time
from copy import deepcopy
from typing import Any

import pytest

from .server import Graph, Listener, RefusedError, Server, needed, node
from .test_server import write_classes

pytestmark = pytest.mark.host

MODELS = {"model": ["p", 0], "clip": ["p", 1], "vae": ["p", 2]}
CLIP = {"clip": ["p", 1], "clip_space": ["p", 3]}
SOURCES = {"INT": "PrimitiveInt", "FLOAT": "PrimitiveFloat", "STRING": "PrimitiveStringMultiline"}
OUTSIDE: dict[str, list[Any]] = {
    "INT": [-(2**62), 2**40],
    "FLOAT": [-1e9, 1e18, float("nan")],
    "STRING": ["a\0b", "\ud800", "\x1b[2J", "x" * 200_001],
}
"""No input of the pack takes one of these."""
FREE = {("MCTI_Route", "labels"), ("MCTI_Route", "confidences")}
"""What Classify With Tokens gives is taken as it is, since labels are folders' names."""


def graph() -> Graph:
    """All nodes that train and use tokens, as small as they can be."""
    return {
        "p": node("MCTI_Pocket", shots=1, seed=0),
        "e": node("MCTI_ExamplesFromFolder", folder="pets", shots=1, seed=0, image_size=64),
        "t": node("MCTI_TrainTokens", **MODELS, examples=["p", 4], steps=1, batch_size=2, lr=0.01, gamma=0.0, seed=0, num_samples=0),
        "i": node("EmptyImage", width=64, height=64, batch_size=1, color=0),
        "c": node("MCTI_Classify", **CLIP, images=["i", 0], tokens=["t", 0], method="clip", top_k=1, threshold=0.0, calibrate_threshold=False),
        "v": node("MCTI_Evaluate", **CLIP, held_out=["p", 5], tokens=["t", 0], method="clip", max_images_per_class=1),
        "a": node("MCTI_AddExamples", label="x", images=["i", 0]),
        "o": node("MCTI_TokenPrompts", tokens=["t", 0], template="a {}"),
        "r": node("MCTI_Route", images=["i", 0], labels=["c", 0], confidences=["c", 2], wanted="", min_confidence=0.0),
        "w": node("MCTI_SaveTokens", tokens=["t", 0], name="n", format="both", folder=""),
    }  # fmt: skip


def linked(whole: Graph, place: str, source: dict[str, Any]) -> Graph:
    """The graph of one node whose input comes from the source."""
    which, name = place.split(".")
    changed = deepcopy(whole)
    changed[which]["inputs"][name] = ["x", 0]
    changed |= {"x": source, "z": node("PreviewAny", source=[which, 0])}
    return needed(changed, "z")


def switched(whole: Graph, place: str, value: str) -> Graph:
    """The same through a switch, whose output may be of any kind."""
    switch = node("ComfySwitchNode", switch=True, on_true=["y", 0], on_false=["y", 0])
    return linked({**whole, "y": node("PrimitiveString", value=value)}, place, switch)


def sentence(server: Server, wrong: Graph) -> str:
    """What is said of it. No other exception than the nodes' own comes to the surface."""
    begun = time.monotonic()
    try:
        run = server.run(wrong, timeout=60)
    except RefusedError as error:
        return str(error)
    assert time.monotonic() - begun < 30
    assert not run.succeeded
    assert run.error["exception_type"] == "ValueError", run.error
    told = str(run.error["exception_message"])
    assert told.strip().isprintable()
    assert len(told) < 1000
    return told


@pytest.fixture(scope="module")
def whole(server: Server) -> Graph:
    write_classes(server.base / "input" / "pets")
    info = server.get("/object_info")
    lacking = [name for name in (*SOURCES.values(), "ComfySwitchNode") if name not in info]
    if lacking:
        pytest.skip(f"this ComfyUI has no {', '.join(lacking)}")
    return graph()


def test_link_with_a_value_outside_the_schema_is_a_sentence_everywhere(server: Server, whole: Graph) -> None:
    info, tried = server.get("/object_info"), 0
    for which, what in whole.items():
        kind = what["class_type"]
        inputs = {
            name: how
            for group in info[kind]["input"].values()
            if isinstance(group, dict)
            for name, how in group.items()
        }
        for name, how in inputs.items():
            if not kind.startswith("MCTI_") or (kind, name) in FREE:
                continue
            for value in OUTSIDE.get(how[0] if isinstance(how[0], str) else "", []):
                told = sentence(server, linked(whole, f"{which}.{name}", node(SOURCES[how[0]], value=value)))
                assert name in told, (kind, name, value, told)
                tried += 1
    assert tried > 80


@pytest.mark.parametrize(
    ("place", "kind", "value"),
    [
        ("t.batch_size", "PrimitiveInt", 257), ("t.batch_size", "PrimitiveInt", 0), ("t.steps", "PrimitiveInt", 100_001), ("t.num_vectors", "PrimitiveInt", 17),
        ("e.image_size", "PrimitiveInt", -64), ("t.max_classes_per_step", "PrimitiveInt", 4097), ("c.threshold", "PrimitiveFloat", 1.01),
        ("w.name", "PrimitiveString", "a/" * 1000 + "b"), ("w.folder", "PrimitiveString", "a/" * 1000 + "b"), ("w.folder", "PrimitiveString", "\x7f"),
        ("o.template", "PrimitiveStringMultiline", "{}" * 2000),
    ],
)  # fmt: skip
def test_link_just_outside_a_limit_is_a_sentence(
    server: Server, whole: Graph, place: str, kind: str, value: Any
) -> None:
    assert sentence(server, linked(whole, place, node(kind, value=value)))
    assert not list((server.base / "models" / "embeddings").iterdir())


@pytest.mark.parametrize("place", ["t.direction", "t.templates", "c.method", "w.format", "e.folder"])
@pytest.mark.parametrize("value", ["nothing", "\0", "\ud800", "../..", "x" * 300])
def test_link_into_a_choice_is_a_sentence(server: Server, whole: Graph, place: str, value: str) -> None:
    assert place.split(".")[1] in sentence(server, switched(whole, place, value))


@pytest.mark.parametrize("place", ["w.tokens", "t.examples", "c.clip_space", "a.images", "t.model", "o.tokens"])
def test_link_of_another_kind_is_a_sentence(server: Server, whole: Graph, place: str) -> None:
    assert place.split(".")[1] in sentence(server, switched(whole, place, "x"))


def test_folder_through_a_link_is_read(server: Server, whole: Graph) -> None:
    right = {**switched(whole, "e.folder", "pets"), "z": node("PreviewImage", images=["e", 2])}
    run = server.run(right)
    assert run.succeeded, run.error


def test_value_inside_the_limits_passes_through_a_link(server: Server, whole: Graph) -> None:
    run = server.run(linked(whole, "t.batch_size", node("PrimitiveInt", value=3)))
    assert run.succeeded, run.error


def test_name_with_a_line_of_its_own_does_not_forge_the_log(server: Server, whole: Graph) -> None:
    forged = "x\n[INFO] got prompt: all is well"
    for wrong in ({"e": node("MCTI_ExamplesFromFolder", folder=forged, shots=0, seed=0, image_size=64)}, {}):
        run = (
            {**wrong, "z": node("PreviewImage", images=["e", 2])}
            if wrong
            else linked(whole, "w.name", node("PrimitiveString", value=forged))
        )
        sentence(server, run)
    assert not [line for line in server.log().splitlines() if line.startswith("[INFO] got prompt: all is well")]


def test_cancel_before_the_first_step_ends_the_training_at_once(server: Server, whole: Graph) -> None:
    large = deepcopy(whole)
    large["t"]["inputs"].update(batch_size=256, steps=100_000, gamma=1.0, clip_space=["p", 3], examples=["p", 5])
    large["z"] = node("PreviewAny", source=["t", 5])
    with Listener(server) as told:
        queued = server.submit(needed(large, "z"))
        while not told.of("executing", "t"):
            time.sleep(0.01)
        server.interrupt()
        begun = time.monotonic()
        run = server.wait(queued)
    assert run.interrupted
    assert time.monotonic() - begun < 10
    assert not told.of("progress", "t", most=100_000)


def test_server_goes_on_after_all_that(server: Server, whole: Graph) -> None:
    run = server.run(needed({**whole, "z": node("PreviewAny", source=["w", 0])}, "z"))
    assert run.succeeded, run.error
    assert json.dumps(server.get("/queue")) == '{"queue_running": [], "queue_pending": []}'
