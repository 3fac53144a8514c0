"""The sample workflows, as API graphs, give their described results in a running server."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mcti_core.tokens.io import load_tokens

from .server import Graph, Server, changed, graph, node

pytestmark = pytest.mark.host

STEPS = {"MCTI_TrainTokens.steps": 15, "KSampler.steps": 4}
QUICK = {"MCTI_TrainTokens.steps": 15, "MCTI_TrainTokens.num_samples": 2, "MCTI_Evaluate.max_images_per_class": 5}
SD15 = {
    "CheckpointLoaderSimple.ckpt_name": "synthetic.ckpt",
    "EmptyLatentImage.width": 64,
    "EmptyLatentImage.height": 64,
    "KSampler.steps": 4,
}


def test_1_quick_start(server: Server) -> None:
    run = server.run(changed(graph("1"), QUICK))
    assert run.succeeded, run.error
    (report,) = run.texts("5")
    assert accuracy(report) > 60, report  # chance is 10
    assert report.startswith("50 held-out images, 10 classes")
    assert "| class mean of the examples |" in report
    shown = server.images(run)
    assert {node: len(images) for node, images in shown.items()} == {"8": 1, "18": 1}
    assert all(np.asarray(image).std() > 10 for images in shown.values() for image in images)


@pytest.mark.slow
def test_1_quick_start_is_as_good_as_the_library(server: Server) -> None:
    """With the settings it comes with; the library runs the same checkpoint in diffusers."""
    from mcti_core.classifiers.clip import ClipClassifier
    from mcti_core.data.dataset import few_shot_split
    from mcti_core.data.feature_cache import FeatureCache
    from mcti_core.pocket import POCKET_CONFIG, load_pocket
    from mcti_core.pocket.digits import digit_dataset
    from mcti_core.training.initial import new_tokens
    from mcti_core.training.loop import train

    run = server.run(graph("1"))
    assert run.succeeded, run.error

    host = load_pocket()
    cache = FeatureCache.build(host, digit_dataset(), hflip=False, batch_size=64)
    few, others = few_shot_split(cache.labels, cache.classes, 5, 0)
    support, query = cache.pick(few), cache.pick(others)
    tokens = train(host, support, new_tokens(host, support.classes), POCKET_CONFIG).tokens
    assert query.features is not None
    right = ClipClassifier(host, tokens).logits(query.features[:, 0]).argmax(1) == query.labels
    assert accuracy(run.texts("5")[0]) == pytest.approx(100 * right.float().mean().item(), abs=1)


@pytest.mark.slow
def test_2_train_on_your_own_folder(sd15: Server) -> None:
    own = {"MCTI_LoadClipSpace.clip_file": "clip.bin", "MCTI_ExamplesFromFolder.image_size": 64}
    run = sd15.run(changed(graph("2"), {**SD15, **own, "MCTI_TrainTokens.steps": 3}))
    assert run.succeeded, run.error
    written = [Path(path) for path in run.texts("6")[0].splitlines()]
    models = sd15.base / "models"
    assert written == [
        models / "mcti_tokens" / "my-things.safetensors",
        *(models / "embeddings" / f"{name}.safetensors" for name in ("Shoe", "my-cup")),
    ]
    tokens = load_tokens(written[0])
    assert (tokens.labels, tokens.names) == (("Shoe", "my cup"), ("Shoe", "my-cup"))
    assert tokens.vectors["clip_l"].shape == (2, 1, 768)
    assert (tokens.vectors["clip_l"][0] - tokens.vectors["clip_l"][1]).norm() > 1e-3
    assert tokens.support is not None
    assert tokens.support.features.shape == (2, 768)
    shown = sd15.images(run)
    assert {node: len(images) for node, images in shown.items()} == {"7": 1, "9": 1, "16": 2}
    assert {image.size for image in shown["16"]} == {(64, 64)}
    assert shown["16"][0].tobytes() != shown["16"][1].tobytes()  # only their tokens differ


def test_3_load_tokens_into_a_text_to_image_graph(sd15: Server, own_tokens: Path) -> None:
    workflow = changed(graph("3"), {**SD15, "MCTI_LoadTokens.file": own_tokens.name})
    run = sd15.run(workflow)
    assert run.succeeded, run.error
    assert run.texts("11") == ["my-cup\nshoe"]
    prompt = workflow["6"]["inputs"]["text"].replace("embedding:my-cup", "embedding:shoe")
    others = [{"6.text": prompt}, {"6.clip": ["4", 1], "7.clip": ["4", 1]}]  # another token; a CLIP that knows none
    runs = [run, *(sd15.run(changed(workflow, other)) for other in others)]
    assert len({sd15.images(each)["9"][0].tobytes() for each in runs}) == 3


def test_4_classify_and_route(server: Server) -> None:
    run = server.run(shown_too(changed(graph("4"), STEPS), "9", "10"))
    assert run.succeeded, run.error
    labels, shown = run.texts("labels"), server.images(run)
    assert (len(labels), len(shown["12"])) == (20, 1)
    generated_for = [str(digit) for digit in range(10) for _ in range(2)]
    assert sum(map(str.__eq__, labels, generated_for)) >= 12  # of 20, after 15 steps of 150; by chance 2
    is_even = [int(label) % 2 == 0 for label in labels]
    assert pixels(shown["14"]) == [image for image, even in zip(pixels(shown["every"]), is_even, strict=True) if even]
    assert pixels(shown["15"]) == [
        image for image, even in zip(pixels(shown["every"]), is_even, strict=True) if not even
    ]
    assert len(list((server.base / "output" / "even").iterdir())) == sum(is_even)


@pytest.mark.parametrize("least", [0.5, 0.95, 1.0])
def test_5_generate_and_keep(server: Server, least: float) -> None:
    workflow = changed(graph("5"), {**STEPS, "MCTI_Route.min_confidence": least})
    run = server.run(shown_too(workflow, "9", "10"))
    assert run.succeeded, run.error
    labels, confidences, shown = (
        run.texts("labels"),
        [float(text) for text in run.texts("confidences")],
        server.images(run),
    )
    assert len(labels) == len(confidences) == len(shown["every"]) == 40
    wanted = [str(digit) for digit in range(10) for _ in range(4)]
    is_kept = [a == b and sure >= least for a, b, sure in zip(labels, wanted, confidences, strict=True)]
    assert pixels(shown.get("12", [])) == [
        image for image, keep in zip(pixels(shown["every"]), is_kept, strict=True) if keep
    ]
    assert pixels(shown.get("13", [])) == [
        image for image, keep in zip(pixels(shown["every"]), is_kept, strict=True) if not keep
    ]


def test_6_test_and_draw(server: Server) -> None:
    run = server.run(changed(graph("6"), QUICK))
    assert run.succeeded, run.error
    assert accuracy(run.texts("5")[0]) > 60
    shown = server.images(run)
    assert {node: len(images) for node, images in shown.items()} == {"6": 1, "15": 20, "17": 1}
    assert len(list((server.base / "output").glob("pocket_*.png"))) == 20
    assert len({image.tobytes() for image in shown["15"]}) == 20
    assert all(np.asarray(image).std() > 10 for images in shown.values() for image in images)


def accuracy(report: str) -> float:
    """Of the tokens, in per cent."""
    (share,) = re.findall(r"^\| tokens, clip +\| ([\d.]+) % +\|$", report, re.MULTILINE)
    return float(share)


def test_7_sort_and_caption(server: Server) -> None:
    if "SaveImageTextDataSetToFolder" not in server.get("/object_info"):
        pytest.skip("this ComfyUI has no SaveImageTextDataSetToFolder")
    run = server.run(shown_too(changed(graph("7"), STEPS), "9", "10"))
    assert run.succeeded, run.error
    labels, folder = run.texts("labels"), server.base / "output"
    assert len(labels) == 20
    for label in set(labels):
        assert len(list((folder / label).glob("digit_*.png"))) == labels.count(label)
    captions = [path.read_text(encoding="utf-8") for path in sorted((folder / "captioned").glob("*.txt"))]
    assert captions == [f"a drawing of the digit {label}" for label in labels]
    assert len(list((folder / "captioned").glob("*.png"))) == 20


def test_8_video_frames(server: Server) -> None:
    run = server.run(shown_too(changed(graph("8"), STEPS), "17", "10"))
    assert run.succeeded, run.error
    labels, shown = run.texts("labels"), server.images(run)
    sure = [float(text) for text in run.texts("confidences")]
    assert len(labels) == len(shown["every"]) == 20
    found = [label == "3" and each >= 0.5 for label, each in zip(labels, sure, strict=True)]
    assert pixels(shown.get("12", [])) == [
        frame for frame, here in zip(pixels(shown["every"]), found, strict=True) if here
    ]
    assert len(shown["13"]) == found.count(False)


def shown_too(workflow: Graph, images: str, classifier: str) -> Graph:
    """With all images and all answers shown as well."""
    return {
        **workflow,
        "every": node("PreviewImage", images=[images, 0]),
        "labels": node("PreviewAny", source=[classifier, 0]),
        "confidences": node("PreviewAny", source=[classifier, 2]),
    }


def pixels(images: list[Image.Image]) -> list[bytes]:
    return [image.tobytes() for image in images]
