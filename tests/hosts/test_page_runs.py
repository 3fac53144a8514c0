"""Each sample workflow runs with one click on the classic canvas and in Nodes 2.0; nodes stay apart, and in their groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .browser import boxes, change, finished, load, outside_groups, overlapping, press_run, text_of
from .server import Server
from .test_page_layout import WORKFLOWS, nodes2

__all__ = ["nodes2"]

pytestmark = [pytest.mark.host, pytest.mark.slow]

QUICK = {"MCTI_TrainTokens": {"steps": 15}, "MCTI_Evaluate": {"max_images_per_class": 5}, "KSampler": {"steps": 4}}
SD15 = {
    "CheckpointLoaderSimple": {"ckpt_name": "synthetic.ckpt"},
    "MCTI_LoadClipSpace": {"clip_file": "clip.bin"},
    "MCTI_ExamplesFromFolder": {"image_size": 64},
    "MCTI_TrainTokens": {"steps": 3},
    "MCTI_LoadTokens": {"file": "own.safetensors"},
    "EmptyLatentImage": {"width": 64, "height": 64},
    "KSampler": {"steps": 4},
}
PICTURES = {
    "1": {"8": 1, "18": 1},
    "2": {"7": 1, "9": 1, "16": 2},
    "3": {"9": 1},
    "4": {"12": 1},
    "5": {"14": 1},
    "6": {"6": 1, "15": 20, "17": 1},
    "7": {"12": 1, "17": 20},
    "8": {"14": 1},
}
"""How many pictures which node shows."""
SHOWN = """([id, count]) => {
    const element = document.querySelector(`[data-node-id="${id}"]`);
    const images = element ? [...element.querySelectorAll('img')] : app.graph.getNodeById(+id).imgs ?? [];
    return images.length === count && images.every(image => image.naturalWidth > 0);
}"""
TEXTS = {"1": (5, "10 classes"), "2": (6, "my-cup.safetensors"), "3": (11, "my-cup"), "6": (5, "10 classes")}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
@pytest.mark.usefixtures("own_tokens")
def test_template_runs_by_a_click(server: Server, page: Any, path: Path) -> None:
    number = path.stem.split()[0]
    load(page, path)
    change(page, SD15 if number in "23" else QUICK)
    change(page, {"MCTI_TrainTokens": {"seed": int(number)}})  # or it comes from another template's cache
    before, runs = page.evaluate("window.previews"), len(server.get("/history"))
    press_run(page)
    if number in "145678":
        page.wait_for_function("n => window.previews > n", arg=before, timeout=300_000)
        assert overlapping(boxes(page)) == []  # with the live preview
    *_, run = finished(server, runs + 1)
    assert run["status"]["status_str"] == "success"
    for node, count in PICTURES[number].items():
        page.wait_for_function(SHOWN, arg=[node, count])
    if number in TEXTS:
        node, text = TEXTS[number]
        assert text in text_of(page, node)
    assert overlapping(boxes(page)) == []
    assert outside_groups(page) == []
