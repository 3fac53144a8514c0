"""The pack in a running server: its start, and inputs that it refuses before any work."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from .server import Graph, RefusedError, Server, changed, graph, needed, node

pytestmark = pytest.mark.host


def test_the_server_knows_every_node(server: Server) -> None:
    kinds = [kind for kind in server.get("/object_info") if kind.startswith("MCTI_")]
    assert len(kinds) == 11
    assert server.import_seconds() < 60  # it says so only of a pack that could be imported


def test_importing_the_pack_brings_in_nothing_heavy(in_comfyui: Callable[..., Any]) -> None:
    told = in_comfyui("imports_in_comfyui.py")
    assert told["nodes"] == 11
    assert told["packages"] == []


def test_a_class_folder_is_read(server: Server) -> None:
    write_classes(server.base / "input" / "pets")
    sheet = server.images(server.run(reading("pets")))["2"]
    assert [image.mode for image in sheet] == ["RGB"]
    assert "pets" in choices(server)


@pytest.mark.parametrize("folder", ["../..", "../models", "/", "", "nowhere", "link"])
def test_folders_outside_the_input_folder_are_refused(server: Server, tmp_path: Path, folder: str) -> None:
    if folder == "link" and not (link := server.base / "input" / "link").exists():
        write_classes(tmp_path)
        link.symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(RefusedError, match=r"copy it into .*input|put a folder there"):
        server.submit(reading(folder))


@pytest.mark.parametrize("place", ["linked", "deeper/still/linked"])
def test_a_link_inside_a_folder_that_leads_outside_is_refused_before_it_is_followed(
    server: Server, tmp_path: Path, place: str
) -> None:
    root = server.base / "input" / f"leading-{len(place)}"
    write_classes(root)
    (tmp_path / "private").mkdir()
    (tmp_path / "private.svg").touch()
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(RefusedError, match="a link in it leads there") as refused:
        server.submit(reading(root.name))
    assert "private" not in str(refused.value)


def test_an_absolute_path_is_refused_until_it_is_opened(server: Server, tmp_path: Path) -> None:
    write_classes(tmp_path / "photos")
    with pytest.raises(RefusedError, match=r"write its path as a line into .*mcti_folders\.txt"):
        server.submit(reading(str(tmp_path / "photos")))
    opened = server.base / "user" / "mcti_folders.txt"
    for wrong in ("photos", f"- {tmp_path / 'photos'}"):  # each is logged as it is written
        opened.write_text(f"# mine\n{wrong}\n", encoding="utf-8")
        with pytest.raises(RefusedError, match=r"mcti_folders\.txt, where line 2 is not the path of a folder"):
            server.submit(reading(str(tmp_path / "photos")))
        assert f"is not the path of a folder: {wrong!r}" in server.log()
    opened.write_text(f"# mine\n{tmp_path / 'photos'}\n", encoding="utf-8")
    assert server.run(reading(str(tmp_path / "photos"))).succeeded
    assert str(tmp_path / "photos") in choices(server)
    with pytest.raises(RefusedError):
        server.submit(reading(str(tmp_path)))  # the folder above it stays closed


def test_a_folder_whose_images_cannot_be_used_is_refused_by_name(server: Server) -> None:
    write_classes(server.base / "input" / "half")
    (server.base / "input" / "half" / "cup").mkdir()
    (server.base / "input" / "half" / "cup" / "1.heic").write_bytes(b"")
    with pytest.raises(RefusedError, match=r"class 'cup' has no image that can be used: .*1\.heic"):
        server.submit(reading("half"))


def test_an_empty_folder_is_left_out_and_logged(server: Server) -> None:
    write_classes(server.base / "input" / "two")
    (server.base / "input" / "two" / "cup").mkdir()
    assert server.run(reading("two")).succeeded
    assert re.search(r"1 folder skipped: empty \(.*cup\)", server.log())


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("MCTI_TrainTokens.steps", 0),
        ("MCTI_TrainTokens.lr", "fast"),
        ("MCTI_TrainTokens.gamma", -2.0),
        ("MCTI_TrainTokens.examples", ["1", 0]),
        ("MCTI_TrainTokens.num_vectors", 17),
        ("MCTI_Pocket.shots", 0),
        ("MCTI_Classify.threshold", 2.0),
        ("MCTI_Evaluate.max_images_per_class", -1),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(server: Server, place: str, value: object) -> None:
    with pytest.raises(RefusedError, match=place.split(".")[1]):
        server.submit(changed(graph("6"), {place: value}))


@pytest.mark.parametrize(
    ("place", "value", "last"),
    [
        ("MCTI_TrainTokens.direction", "sideways", "15"),
        ("MCTI_TrainTokens.templates", "poems", "15"),
        ("MCTI_Classify.method", "guess", "17"),
        ("MCTI_Evaluate.method", "guess", "5"),
    ],
)
def test_a_value_that_is_no_choice_is_a_mistake(server: Server, place: str, value: str, last: str) -> None:
    """ComfyUI v0.3 does not look at choices, so that the nodes must."""
    quick = {"MCTI_TrainTokens.steps": 1, "MCTI_TrainTokens.num_samples": 0, "MCTI_Evaluate.max_images_per_class": 1}
    quick |= {"KSampler.steps": 1, "EmptyLatentImage.batch_size": 1}
    told = mistake(server, needed(changed(graph("6"), {**quick, place: value}), last))
    assert value in told
    assert place.split(".")[1] in told


def test_tokens_that_are_not_there_are_a_mistake(server: Server) -> None:
    wanted = {"1": node("MCTI_Pocket", shots=5, seed=0)}
    wanted["2"] = node("MCTI_LoadTokens", file="../nothing.safetensors", clip=["1", 1])
    wanted["3"] = node("PreviewAny", source=["2", 2])
    assert "nothing.safetensors" in mistake(server, wanted)


def test_summary_of_a_folder_names_what_is_not_used(server: Server) -> None:
    folder = server.base / "input" / "mixed"
    write_classes(folder)
    for name in ("cat/a.cr3", "cat/b.CR3", "dog/c.mov", "@eaDir/x.png", "dog/deeper/x.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"content")
    (folder / "empty").mkdir()
    run = server.run({**reading("mixed"), "3": node("PreviewAny", source=["1", 3])})
    assert run.succeeded, run.error
    (text,) = run.texts("3")
    assert text.splitlines()[:3] == ["4 images, 2 classes", "cat: 2", "dog: 2"]
    for told in (
        "2 .cr3 files skipped: raw camera files",
        "1 .mov file skipped: videos",
        "system folder",
        "1 folder skipped: empty",
        "folders in a class folder are ignored",
    ):
        assert told in text


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_unreadable_images_are_named_in_one_sentence_and_pipes_are_not_waited_for(server: Server) -> None:
    folder = server.base / "input" / "broken"
    write_classes(folder)
    os.mkfifo(folder / "cat" / "pipe.png")
    for name in ("cat/0.png", "dog/1.png"):
        (folder / name).write_bytes(b"<html>")
    shown = {**reading("broken"), "1": node("MCTI_ExamplesFromFolder", folder="broken", shots=0, seed=0, image_size=64)}
    told = mistake(server, shown)
    assert told.startswith("2 images cannot be read: ")
    assert told.count("a web page") == 2


def test_the_server_goes_on_after_all_that(server: Server) -> None:
    assert server.run(needed(graph("1"), "18")).succeeded


def reading(folder: str) -> Graph:
    """A graph that shows the examples of a folder."""
    return {
        "1": node("MCTI_ExamplesFromFolder", folder=folder, shots=1, seed=0, image_size=64),
        "2": node("PreviewImage", images=["1", 2]),
    }


def mistake(server: Server, wrong: Graph) -> str:
    """What is said of it: before it runs, or in a sentence when it does."""
    try:
        run = server.run(wrong)
    except RefusedError as error:
        return str(error)
    assert run.error["exception_type"] == "ValueError"
    return str(run.error["exception_message"])


def choices(server: Server) -> list[str]:
    """The folders that the node offers."""
    kind, *options = server.get("/object_info/MCTI_ExamplesFromFolder")["MCTI_ExamplesFromFolder"]["input"]["required"][
        "folder"
    ]
    return options[0]["options"] if kind == "COMBO" else kind


def write_classes(folder: Path) -> None:
    """Two classes of two images."""
    for label, shade in (("cat", 40), ("dog", 200)):
        os.makedirs(folder / label, exist_ok=True)
        for number in range(2):
            Image.new("RGB", (32, 24), (shade, 90 * number, 0)).save(folder / label / f"{number}.png")
