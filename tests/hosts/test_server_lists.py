"""Graphs with the host's own nodes for data sets: lists of images and texts, the loss plot, training of a LoRA."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from .server import Graph, Server, node

pytestmark = pytest.mark.host

IMAGES, PAIRS, SAVE = "LoadImageDataSetFromFolder", "LoadImageTextDataSetFromFolder", "SaveImageTextDataSetToFolder"
SIZES = ((64, 64), (80, 64), (48, 96))
POCKET = {"p": node("MCTI_Pocket", shots=1, seed=0)}
PARTS: dict[str, Any] = {"model": ["p", 0], "clip": ["p", 1], "vae": ["p", 2], "clip_space": ["p", 3]}


@pytest.fixture(scope="module")
def info(server: Server) -> dict[str, Any]:
    """What the server says of its nodes, with data sets of two classes in its input folder."""
    found = server.get("/object_info")
    if IMAGES not in found:
        pytest.skip(f"this ComfyUI has no {IMAGES}")
    rng = random.Random(0)
    for label in ("ring", "bar"):
        for number, size in enumerate(SIZES):
            write(server.base / "input" / label / f"{number}.png", label, size, rng)
            pair = server.base / "input" / "pairs" / f"{label}{number}.png"
            write(pair, label, size, rng)
            pair.with_suffix(".txt").write_text(f"a {label}", encoding="utf-8")
    return server.get("/object_info")


def write(path: Path, label: str, size: tuple[int, int], rng: random.Random) -> None:
    """A ring or a bar, dark on light, somewhere."""
    image = Image.new("RGB", size, (230, 230, rng.randint(180, 250)))
    x, y = (side // 2 + rng.randint(-4, 4) for side in size)
    draw = ImageDraw.Draw(image)
    if label == "ring":
        draw.ellipse((x - 14, y - 14, x + 14, y + 14), outline="black", width=5)
    else:
        draw.rectangle((x - 3, y - 16, x + 3, y + 16), fill="black")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def training(examples: list[Any], **more: Any) -> Graph:
    inputs = {
        "steps": 2,
        "batch_size": 2,
        "lr": 0.02,
        "gamma": 0.1,
        "seed": 0,
        "num_samples": 0,
        "hflip": False,
        **more,
    }
    return {**POCKET, "t": node("MCTI_TrainTokens", **PARTS, examples=examples, **inputs)}


def two_lists(**more: Any) -> Graph:
    """A training on two folders as lists, each of which is one class."""
    return {
        **training(["bar", 0], **more),
        "l": node(IMAGES, folder="ring"),
        "m": node(IMAGES, folder="bar"),
        "ring": node("MCTI_AddExamples", label="ring", images=["l", 0]),
        "bar": node("MCTI_AddExamples", label="bar", images=["m", 0], previous=["ring", 0]),
        "summary": node("PreviewAny", source=["t", 5]),
    }


def test_list_of_images_is_one_class_and_trains_once_on_all_images(server: Server, info: dict[str, Any]) -> None:
    run = server.run(two_lists())
    assert run.succeeded, run.error
    (summary,) = run.texts("summary")
    assert "2 classes, 6 images, 2 steps" in summary
    assert "embedding:ring, embedding:bar" in summary


def test_list_of_texts_makes_classes_by_text(server: Server, info: dict[str, Any]) -> None:
    pairs = {
        **training(["e", 0]),
        "l": node(PAIRS, folder="pairs"),
        "e": node("MCTI_AddExamples", label=["l", 1], images=["l", 0]),
        "summary": node("PreviewAny", source=["t", 5]),
    }
    run = server.run(pairs)
    assert run.succeeded, run.error
    (summary,) = run.texts("summary")
    assert "2 classes, 6 images" in summary
    assert {"embedding:a-ring", "embedding:a-bar"} <= set(summary.replace(",", " ").split())


def test_images_without_a_text_each_are_a_sentence(server: Server, info: dict[str, Any]) -> None:
    wrong = {
        "l": node(PAIRS, folder="pairs"),
        "m": node(IMAGES, folder="ring"),
        "e": node("MCTI_AddExamples", label=["l", 1], images=["m", 0]),
        "z": node("PreviewImage", images=["e", 1]),
    }
    run = server.run(wrong)
    assert run.error["exception_type"] == "ValueError"
    assert "there are 3 images and 6 labels" in run.error["exception_message"]


def sorting(batch: list[Any]) -> Graph:
    """Classify images, route them, and show the labels of both parts."""
    return {
        "c": node("MCTI_Classify", images=batch, tokens=["t", 0], clip=["p", 1], clip_space=["p", 3], method="hybrid", top_k=1, threshold=0.0, calibrate_threshold=False),
        "r": node("MCTI_Route", images=batch, labels=["c", 0], wanted="ring", min_confidence=0.0),
        "labels": node("PreviewAny", source=["r", 2]),
        "others": node("PreviewAny", source=["r", 3]),
        "scores": node("PreviewAny", source=["c", 3]),
        "shown": node("PreviewImage", images=["r", 0]),
    }  # fmt: skip


def test_list_of_sizes_is_classified_routed_and_saved_with_its_labels(server: Server, info: dict[str, Any]) -> None:
    graph = two_lists() | {"q": node(IMAGES, folder="pairs")} | sorting(["q", 0])
    run = server.run(graph | {"save": saving(info, "rings")})
    assert run.succeeded, run.error
    assert len(json.loads(run.texts("scores")[0])) == 6
    kept, others = run.texts("labels"), run.texts("others")
    assert (set(kept), set(others)) == ({"ring"}, {"bar"})
    assert len(kept) + len(others) == 6
    saved = server.base / "output" / "rings"
    assert [file.read_text(encoding="utf-8") for file in sorted(saved.glob("*.txt"))] == kept
    assert len(list(saved.glob("*.png"))) == len(kept)
    assert len(server.images(run)["shown"]) == len(kept)


def test_batch_is_classified_and_routed_as_a_batch(server: Server, info: dict[str, Any]) -> None:
    graph = two_lists() | {"b": node("EmptyImage", width=64, height=64, batch_size=3, color=0)} | sorting(["b", 0])
    run = server.run(graph)
    assert run.succeeded, run.error
    labels = [record["label"] for record in json.loads(run.texts("scores")[0])]
    assert len(labels) == 3
    shown = server.images(run).get("shown", [])
    assert len(shown) == labels.count("ring")


def test_batch_is_saved_with_its_labels_when_it_is_taken_apart(server: Server, info: dict[str, Any]) -> None:
    """The host's node saves single images only, not batches; its Rebatch Images makes a list of them."""
    graph = two_lists() | {"b": node("EmptyImage", width=64, height=64, batch_size=3, color=0)} | sorting(["q", 0])
    graph |= {"q": node("RebatchImages", images=["b", 0], batch_size=1), "save": saving(info, "batch")}
    graph["r"]["inputs"]["wanted"] = ""
    run = server.run(graph)
    assert run.succeeded, run.error
    saved = server.base / "output" / "batch"
    assert [file.read_text(encoding="utf-8") for file in sorted(saved.glob("*.txt"))] == run.texts("labels")
    assert len(list(saved.glob("*.png"))) == len(run.texts("labels")) == 3


def test_loss_is_drawn_by_the_hosts_plot(server: Server, info: dict[str, Any]) -> None:
    run = server.run(two_lists() | {"plot": node("LossGraphNode", loss=["t", 2], filename_prefix="loss")})
    assert run.succeeded, run.error
    assert len(server.images(run)["plot"]) == 1


@pytest.mark.slow
def test_lora_of_the_pocket_model_is_trained_by_the_hosts_node(server: Server, info: dict[str, Any]) -> None:
    lora = {name: default(info, "TrainLoraNode", name) for name in wanted(info, "TrainLoraNode")}
    lora |= {"model": ["p", 0], "latents": ["e", 0], "positive": ["x", 0], "steps": 2, "rank": 1}
    lora |= {"training_dtype": "fp32", "lora_dtype": "fp32", "existing_lora": "[None]"}
    graph = POCKET | {
        "i": node("EmptyImage", width=64, height=64, batch_size=2, color=200),
        "e": node("VAEEncode", pixels=["i", 0], vae=["p", 2]),
        "x": node("CLIPTextEncode", text="a drawing", clip=["p", 1]),
        "lora": node("TrainLoraNode", **lora),
        "steps": node("PreviewAny", source=["lora", 2]),
    }
    if len(info["TrainLoraNode"]["output"]) > 3:  # before 0.16 the patched model came first
        graph["steps"]["inputs"]["source"] = ["lora", 3]
    run = server.run(graph)
    assert run.succeeded, run.error
    assert run.texts("steps") == ["2"]


def saving(info: dict[str, Any], folder: str) -> dict[str, Any]:
    """The host's node that saves what Route lets through, with its labels as captions."""
    inputs = {"images": ["r", 0], "texts": ["r", 2], "folder_name": folder, "filename_prefix": "image"}
    return node(SAVE, **{name: default(info, SAVE, name) for name in wanted(info, SAVE)} | inputs)


def wanted(info: dict[str, Any], kind: str) -> list[str]:
    return list(info[kind]["input"]["required"])


def default(info: dict[str, Any], kind: str, name: str) -> Any:
    what, *more = info[kind]["input"]["required"][name]
    options = more[0] if more else {}
    choices = options.get("options", what if isinstance(what, list) else [None])
    return options.get("default", choices[0])
