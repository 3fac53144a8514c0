"""Token files in a running server: written, read by the host's own nodes, changed, and in place of other files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from mcti_core.tokens.io import load_tokens, save_tokens

from .server import Graph, Server, changed, needed, node
from .synthetic_checkpoints import write_sd15

pytestmark = pytest.mark.host

POCKET = {"1": node("MCTI_Pocket", shots=5, seed=0)}
CHECKPOINT = {"1": node("CheckpointLoaderSimple", ckpt_name="synthetic.ckpt")}


def learning(server: Server, loader: Graph) -> Graph:
    """Node 3 learns tokens of two classes, "cat" and "big dog", in no time."""
    for label, colour in (("cat", "red"), ("big dog", "blue")):
        path = server.base / "input" / "pets" / label / "1.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), colour).save(path)
    write_sd15(server.base / "models" / "checkpoints" / "synthetic.ckpt")
    models = {"model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2]}
    return {
        **loader,
        "e": node("MCTI_ExamplesFromFolder", folder="pets", shots=0, seed=0, image_size=64),
        "3": node(
            "MCTI_TrainTokens", **models, examples=["e", 0],
            steps=3, batch_size=4, lr=0.1, gamma=0.0, seed=0, hflip=False, num_samples=0,
        ),
    }  # fmt: skip


def saving(server: Server, name: str, loader: Graph = POCKET, form: str = "both", folder: str = "") -> Graph:
    save = node("MCTI_SaveTokens", tokens=["3", 0], name=name, format=form, folder=folder)
    shown = {"5": node("PreviewAny", source=["4", 0]), "6": node("PreviewAny", source=["4", 1])}
    return {**learning(server, loader), "4": save, **shown}


def drawing(prefix: str, clip: tuple[str, int], prompt: str) -> Graph:
    """Stock nodes; ids begin with the prefix, the last is <prefix>s."""
    return {
        f"{prefix}p": node("CLIPTextEncode", clip=list(clip), text=prompt),
        f"{prefix}n": node("CLIPTextEncode", clip=["1", 1], text=""),
        f"{prefix}z": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        f"{prefix}k": node(
            "KSampler", model=["1", 0], positive=[f"{prefix}p", 0], negative=[f"{prefix}n", 0],
            latent_image=[f"{prefix}z", 0], seed=5, steps=4, cfg=5.0, sampler_name="euler", scheduler="normal", denoise=1.0,
        ),
        f"{prefix}v": node("VAEDecode", samples=[f"{prefix}k", 0], vae=["1", 2]),
        f"{prefix}s": node("SaveImage", images=[f"{prefix}v", 0], filename_prefix=prefix),
    }  # fmt: skip


def drawn(server: Server, what: Graph, *outputs: str) -> list[bytes]:
    run = server.run(what)
    assert run.succeeded, run.error
    images = server.images(run)
    return [images[output][0].tobytes() for output in outputs]


@pytest.mark.parametrize("loader", [POCKET, pytest.param(CHECKPOINT, marks=pytest.mark.slow)], ids=["pocket", "sd15"])
@pytest.mark.parametrize("prompt", ["a drawing of a embedding:{}", "a (embedding:{}:1.2) on paper"])
def test_a_saved_embedding_draws_what_the_tokens_in_memory_draw(server: Server, loader: Graph, prompt: str) -> None:
    for file in (server.base / "models" / "embeddings").glob("*"):
        file.unlink()
    learn = learning(server, loader)
    without = {**loader, **drawing("without", ("1", 1), prompt.format("big-dog"))}
    (unknown,) = drawn(server, without, "withouts")
    run = server.run(saving(server, "pets", loader, form="embeddings"))
    assert run.succeeded, run.error
    assert {Path(path).name for path in run.texts("5")[0].splitlines()} == {"cat.safetensors", "big-dog.safetensors"}
    assert "\ncat: words of CLIP's vocabulary" in run.texts("6")[0]
    both = {
        **learn,
        **drawing("file", ("1", 1), prompt.format("big-dog")),
        **drawing("memory", ("3", 1), prompt.format("big-dog")),
        **drawing("other", ("3", 1), prompt.format("cat")),
    }
    from_file, from_memory, other = drawn(server, both, "files", "memorys", "others")
    assert from_file == from_memory
    assert len({from_file, other, unknown}) == 3


def test_loaded_tokens_draw_what_the_learned_ones_draw_and_a_changed_file_is_seen(server: Server) -> None:
    prompt = "a drawing of a embedding:cat"
    learned = {**saving(server, "sub/changing", form="token set"), **drawing("learned", ("3", 1), prompt)}
    (as_learned,) = drawn(server, learned, "learneds")
    path = server.base / "models" / "mcti_tokens" / "sub" / "changing.safetensors"
    assert path.is_file()
    loading = {**POCKET, "2": node("MCTI_LoadTokens", file="sub/changing.safetensors", clip=["1", 1])}
    loading |= {**drawing("loaded", ("2", 1), prompt), "names": node("PreviewAny", source=["2", 2])}
    (as_loaded,) = drawn(server, loading, "loadeds")
    assert as_loaded == as_learned
    assert server.run(loading).cached == loading.keys()  # nothing has changed

    tokens = load_tokens(path)
    save_tokens(replace(tokens, vectors={name: -vector for name, vector in tokens.vectors.items()}), path)
    run = server.run(loading)
    assert "2" not in run.cached
    assert server.images(run)["loadeds"][0].tobytes() != as_loaded
    save_tokens(tokens, path)
    assert drawn(server, loading, "loadeds") == [as_loaded]


def test_a_folder_of_embeddings_and_a_single_one_are_loaded(server: Server) -> None:
    assert server.run(saving(server, "any", form="embeddings", folder="pets")).succeeded
    loading = {**POCKET, "2": node("MCTI_LoadTokens", file="embeddings in: pets", clip=["1", 1])}
    loading["3"] = node("PreviewAny", source=["2", 2])
    assert server.run(loading).texts("3") == ["big-dog\ncat"]
    single = changed(loading, {"2.file": "embedding: pets/cat.safetensors"})
    assert server.run(single).texts("3") == ["cat"]


def test_files_of_others_are_not_overwritten(server: Server) -> None:
    for place in ("embeddings/theirs/cat", "mcti_tokens/theirs"):
        path = server.base / "models" / f"{place}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({"emb_params": torch.ones(1, 768)}, path)
    before = files(server)
    for what in (saving(server, "new", folder="theirs"), saving(server, "theirs", folder="elsewhere")):
        run = server.run(what)
        assert "was not written by MC-TI; choose another name" in run.error["exception_message"]
        assert files(server) == before  # nor was anything else written


def test_own_files_are_written_anew(server: Server) -> None:
    for seed in (0, 1):
        what = changed(saving(server, "own", folder="own"), {"3.seed": seed, "3.templates": ["object", "style"][seed]})
        assert server.run(what).succeeded
    kept = load_tokens(server.base / "models" / "mcti_tokens" / "own.safetensors")
    assert kept.training["seed"] == 1


@pytest.mark.parametrize("name", ["../../../escaped", "/escaped", "..\\escaped", "a/../../escaped"])
def test_names_stay_inside_the_folders(server: Server, name: str) -> None:
    run = server.run(saving(server, name, folder=name))
    assert run.succeeded, run.error
    inside = [server.base / "models" / folder for folder in ("mcti_tokens", "embeddings")]
    for path in map(Path, run.texts("5")[0].splitlines()):
        assert any(path.resolve().is_relative_to(root.resolve()) for root in inside)
        assert path.is_file()


def test_a_name_without_letters_is_a_mistake(server: Server) -> None:
    run = server.run(saving(server, "../.."))
    assert "use letters and digits" in run.error["exception_message"]
    assert server.run(needed(learning(server, POCKET), "1") | {"9": node("PreviewImage", images=["1", 6])}).succeeded


def files(server: Server) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in (server.base / "models").rglob("*.safetensors")}
