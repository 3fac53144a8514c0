"""The scripts and graphs in docs/examples do what their page describes."""

from __future__ import annotations

import json
import runpy
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import mcti_core
import mcti_core.pocket
from mcti_core.pocket import digits
from mcti_core.tokens.io import load_tokens, save_tokens
from mcti_core.viz.image_grid import to_pil

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"


@pytest.fixture(scope="module")
def learned(tmp_path_factory) -> Path:
    """What train.py writes, of the first digits and in few steps; and an image of a three in a folder."""
    folder = tmp_path_factory.mktemp("examples")
    masks, labels = digits.digit_masks()
    first = digits.FewShotDataset(tuple("0123456789"), tuple(digits.draw_digits(masks[:200])), labels[:200])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "digit_dataset", lambda: first)
        patch.setattr(mcti_core.pocket, "POCKET_CONFIG", replace(mcti_core.pocket.POCKET_CONFIG, steps=8))
        patch.setattr(mcti_core, "generate", partial(mcti_core.generate, num_inference_steps=2))
        run("train.py", patch, folder / "learned.safetensors", folder / "digits.png")
    (folder / "inbox").mkdir()
    to_pil(first.images[list(labels).index(3)]).save(folder / "inbox" / "a.png")
    return folder


def run(script: str, patch: pytest.MonkeyPatch, *arguments: object) -> None:
    patch.setattr(sys, "argv", [script, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")


def test_train_example_saves_ten_tokens_and_a_picture(learned):
    assert load_tokens(learned / "learned.safetensors").labels == tuple("0123456789")
    assert (learned / "digits.png").stat().st_size > 1000


def test_sort_example_copies_an_image_to_its_label(learned, tmp_path, monkeypatch):
    run("sort_a_folder.py", monkeypatch, learned / "inbox", learned / "learned.safetensors", tmp_path)
    assert [path.relative_to(tmp_path).parts for path in tmp_path.rglob("*.png")] == [("3", "a.png")]


def test_web_service_answers_names_and_refuses(learned, monkeypatch):
    testclient = pytest.importorskip("fastapi.testclient")
    photo = (learned / "inbox" / "a.png").read_bytes()
    monkeypatch.setenv("TOKENS", str(learned / "learned.safetensors"))
    names = runpy.run_path(str(EXAMPLES / "web_service.py"))
    client = testclient.TestClient(names["app"])
    answer = client.post("/classify", content=photo).json()
    assert answer["label"] == "3"
    assert len(answer["top"]) == 3
    refused = client.post("/classify", content=b"no image")
    assert (refused.status_code, refused.json()["detail"][:15]) == (400, "the file cannot")
    monkeypatch.setitem(names["classify"].__globals__, "MAX_IMAGE_BYTES", 10)
    assert client.post("/classify", content=photo).status_code == 413


def test_web_service_answers_a_label_with_half_a_character(learned, tmp_path, monkeypatch):
    testclient = pytest.importorskip("fastapi.testclient")
    labels = tuple(f"{digit}\udce9" for digit in "0123456789")
    save_tokens(replace(load_tokens(learned / "learned.safetensors"), labels=labels), tmp_path / "tokens.safetensors")
    monkeypatch.setenv("TOKENS", str(tmp_path / "tokens.safetensors"))
    client = testclient.TestClient(runpy.run_path(str(EXAMPLES / "web_service.py"))["app"])
    answer = client.post("/classify", content=(learned / "inbox" / "a.png").read_bytes())
    assert answer.json()["label"] == "3\udce9"


@pytest.mark.parametrize(("graph", "number"), [("pocket", 1), ("classify", 4), ("generate-and-check", 5)])
def test_graph_is_that_of_its_template(graph, number):
    """tests/hosts/test_server_workflows.py sends the same graphs to a real server."""
    (same,) = (ROOT / "tests" / "hosts" / "api").glob(f"{number}_*.json")
    assert json.loads((EXAMPLES / f"{graph}.json").read_text("utf-8")) == json.loads(same.read_text("utf-8"))
