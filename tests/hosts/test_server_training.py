"""Training in a running server: cancelled, resumed, failed; and the state of the models afterwards."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from mcti_core.tokens.io import load_tokens

from .server import Graph, Listener, Run, Server, changed, graph, needed, node
from .synthetic_checkpoints import write_sd15

pytestmark = pytest.mark.host

POCKET = {"0": node("MCTI_Pocket", shots=5, seed=0)}
"""Node 0 of every graph here gives MODEL, CLIP and VAE; so that the server keeps them from one graph to the next."""
CHECKPOINT = {"0": node("CheckpointLoaderSimple", ckpt_name="synthetic.ckpt")}
STEPS = 24
UNFINISHED = "unfinished-0-and-9-more-????????.safetensors"
"""Pattern of the name of kept tokens; it ends with a part of the training's own hash."""


def training(steps: int = STEPS, seed: int = 0, name: str = "learned") -> Graph:
    """Pocket tokens, trained as in the workflows with less of everything, and saved."""
    part = changed(needed(graph("5"), "3"), {"3.steps": steps, "3.seed": seed, "3.batch_size": 10})
    part["0"] = part.pop("1")
    for value in part["3"]["inputs"].values():
        if isinstance(value, list) and value[0] == "1":
            value[0] = "0"
    part["4"] = node("MCTI_SaveTokens", tokens=["3", 0], name=name, format="token set", folder="")
    return part


def cancel(server: Server, what: Graph, after: int) -> tuple[Run, Listener, float]:
    """Run a graph and cancel it when its training has done some steps."""
    with Listener(server) as told:
        queued = server.submit(what)
        told.wait_for_progress("3", after, most=what["3"]["inputs"]["steps"])
        server.interrupt()
        at = time.monotonic()
        run = server.wait(queued)
        while run.interrupted and not told.of("execution_interrupted") and time.monotonic() < at + 60:
            time.sleep(0.01)
    return run, told, at


def newest_unfinished(server: Server) -> Path:
    return max((server.base / "models" / "mcti_tokens").glob(UNFINISHED), key=lambda path: path.stat().st_mtime)


@pytest.mark.slow
@pytest.mark.parametrize("restarted", [False, True])
def test_cancelled_within_a_step_and_continued_to_the_bit(
    server: Server, comfyui: Path, tmp_path: Path, restarted: bool
) -> None:
    graph = training(seed=int(restarted))
    run, told, at = cancel(server, graph, after=6)
    assert run.interrupted
    steps = told.of("progress", "3", most=STEPS)
    seconds = median(b.at - a.at for a, b in pairwise(steps))
    assert sum(step.at > at for step in steps) <= 2  # the step that ran, and one whose news was on its way
    (ended,) = told.of("execution_interrupted")
    print(f"\ncancelled after {ended.at - at:.2f} s; a step takes {seconds:.2f} s")
    assert ended.at - at < 3 * seconds + 3

    unfinished = newest_unfinished(server)
    assert load_tokens(unfinished).labels == tuple("0123456789")
    done = int(re.findall(rf"interrupted after (\d+) of {STEPS} steps", server.log())[-1])
    assert steps[-1].data["value"] <= done <= steps[-1].data["value"] + 1  # a cancelled step's news may not be sent
    assert unfinished.name in server.log()

    if restarted:
        server.stop()
        server.start()
    with Listener(server) as told:
        assert server.run(graph).succeeded
    assert_steps(told.of("progress", "3", most=STEPS), done + 1, STEPS)

    with Server(comfyui, tmp_path) as fresh:
        assert fresh.run(graph).succeeded
    continued, whole = learned(server.base), learned(tmp_path)
    assert continued.keys() == whole.keys()
    assert all(torch.equal(continued[name], whole[name]) for name in whole)
    assert not torch.equal(load_file(unfinished)["clip_l"], whole["clip_l"])


def test_the_unfinished_tokens_can_be_used(server: Server) -> None:
    run, *_ = cancel(server, training(seed=2), after=3)
    assert run.interrupted
    used = {**POCKET, "1": node("MCTI_LoadTokens", file=newest_unfinished(server).name, clip=["0", 1])}
    used["2"] = node("PreviewAny", source=["1", 2])
    assert server.run(used).texts("2") == ["\n".join("0123456789")]


def test_another_training_does_not_go_on_from_it(server: Server) -> None:
    with Listener(server) as told:
        assert server.run(training(steps=4, seed=2)).succeeded
    assert_steps(told.of("progress", "3", most=4), 1, 4)


def assert_steps(told, first, last):
    """Some of the steps, in order: the host leaves out news that come within 100 ms (since v0.19.3)."""
    steps = [event.data["value"] for event in told]
    assert steps[0] == first
    assert steps[-1] == last
    assert steps == sorted(set(steps))


def test_gamma_follows_the_gradients_where_the_settings_ask_for_it(server: Server) -> None:
    balanced = changed(training(3, name="balanced"), {"3.gradient_ratio": 0.5})
    balanced["5"] = node("PreviewAny", source=["3", 5])
    run = server.run(balanced)
    assert run.succeeded
    made = load_tokens(server.base / "models" / "mcti_tokens" / "balanced.safetensors").training
    assert (made["gamma"], made["gradient_ratio"]) == ("auto", 0.5)
    assert (
        f"multi-class textual inversion with gamma {made['gamma_last']:.2g} at the end: 10 classes" in run.texts("5")[0]
    )


# -- mistakes ---------------------------------------------------------------------------------------------------------------


def with_examples(nodes: Graph, last: str, loader: Graph = POCKET) -> Graph:
    """Plain textual inversion on the examples that a node gives."""
    inputs = {"model": ["0", 0], "clip": ["0", 1], "vae": ["0", 2], "examples": [last, 0]}
    return {
        **loader,
        **nodes,
        "3": node(
            "MCTI_TrainTokens", **inputs, steps=3, batch_size=4, lr=0.01, gamma=0.0, seed=0, hflip=False, num_samples=0
        ),
        "9": node("PreviewImage", images=["3", 3]),
    }


def pets(server: Server) -> Graph:
    """Node e gives two classes, read from files as images of 64 x 64."""
    for label, colour in (("cat", "red"), ("dog", "blue")):
        path = server.base / "input" / "pets" / label / "1.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), colour).save(path)
    return {"e": node("MCTI_ExamplesFromFolder", folder="pets", shots=0, seed=0, image_size=64)}


def not_finite(server: Server, loader: Graph = POCKET, width: int = 64) -> Graph:
    """A LoRA makes the MODEL's answers infinite, so that the first step fails."""
    path = server.base / "models" / "loras" / f"broken-{width}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"diffusion_model.out.2.diff": torch.full((4, width, 3, 3), 1e38)}, path)
    nodes = pets(server)
    nodes["b"] = node("LoraLoaderModelOnly", model=["0", 0], lora_name=path.name, strength_model=1.0)
    return changed(with_examples(nodes, "e", loader), {"3.model": ["b", 0]})


def no_numbers(server: Server) -> Graph:
    """The VAE makes an image that is not a number anywhere."""
    latent = {"latent_tensor": torch.full((1, 4, 16, 16), torch.nan), "latent_format_version_0": torch.tensor([])}
    save_file(latent, server.base / "input" / "broken.latent")
    nodes = pets(server)
    nodes["l"] = node("LoadLatent", latent="broken.latent")
    nodes["d"] = node("VAEDecode", samples=["l", 0], vae=["0", 2])
    nodes["a"] = node("MCTI_AddExamples", label="broken", images=["d", 0], previous=["e", 0])
    return with_examples(nodes, "a")


def test_mistakes_are_reported_in_a_sentence(server: Server) -> None:
    plain = {"i": node("EmptyImage", width=64, height=64, batch_size=2, color=0x40A0F0)}
    plain["a"] = node("MCTI_AddExamples", label="x", images=["i", 0])
    told_plainly(server.run(with_examples(plain, "a")), "only the class x")
    told_plainly(server.run(changed(with_examples(plain, "a"), {"a.label": " "})), "a label is empty")
    told_plainly(server.run(no_numbers(server)), "images contain values that are not numbers")
    told_plainly(server.run(not_finite(server)), "step 1 is not a finite number")
    assert server.run(with_examples(pets(server), "e")).succeeded


def test_examples_that_vanish_while_the_graph_waits(server: Server) -> None:
    learn = with_examples(pets(server), "e")
    folder = server.base / "input" / "pets"
    before = server.submit(training(steps=8, seed=3))
    waiting = server.submit(changed(learn, {"3.seed": 9}))
    (folder / "dog" / "1.png").unlink()
    assert server.wait(before).succeeded
    told_plainly(server.wait(waiting), "dog")
    pets(server)
    (folder / "cat" / "1.png").write_bytes(b"no image at all")
    told_plainly(server.run(changed(learn, {"3.seed": 10})), "1.png")


def told_plainly(run: Run, words: str) -> None:
    """An error of one sentence, without the library's frames or a path to the pack for its name."""
    assert words in run.error["exception_message"]
    assert "\n" not in run.error["exception_message"].strip()
    assert run.error["exception_type"] == "ValueError"
    assert not any("mcti_core" in frame for frame in run.error["traceback"])


# -- what is left of the models ---------------------------------------------------------------------------------------------


def drawing(number: int, prompt: str = "a drawing of a red glyph", clip: tuple[str, int] = ("0", 1)) -> Graph:
    """Stock nodes that draw an image with node 0's models; the number is in the file's name only."""
    return {
        "p": node("CLIPTextEncode", clip=list(clip), text=prompt),
        "n": node("CLIPTextEncode", clip=["0", 1], text=""),
        "z": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "k": node(
            "KSampler", model=["0", 0], positive=["p", 0], negative=["n", 0], latent_image=["z", 0],
            seed=5, steps=4, cfg=5.0, sampler_name="euler", scheduler="normal", denoise=1.0,
        ),
        "v": node("VAEDecode", samples=["k", 0], vae=["0", 2]),
        "s": node("SaveImage", images=["v", 0], filename_prefix=f"drawing-{number}"),
    }  # fmt: skip


@pytest.mark.parametrize("loader", [POCKET, pytest.param(CHECKPOINT, marks=pytest.mark.slow)], ids=["pocket", "sd15"])
def test_the_host_draws_as_before(server: Server, loader: Graph) -> None:
    """To the bit, with the very models that were borrowed: the server keeps node 0 all the time."""
    write_sd15(server.base / "models" / "checkpoints" / "synthetic.ckpt")
    learn = with_examples(pets(server), "e", loader)
    longer = changed(learn, {"3.steps": 500, "3.seed": 1})
    happenings: list[Callable[[], Run]] = [
        lambda: server.run(learn),
        lambda: cancel(server, longer, after=2)[0],
        lambda: server.run(not_finite(server, loader, 64 if loader is POCKET else 320)),
    ]
    first = server.run({**loader, **drawing(0)})
    (before,) = server.images(first)["s"]
    ends = []
    for number, happen in enumerate(happenings, 1):
        ends.append(happen())
        again = server.run({**loader, **drawing(number)})
        assert again.cached == {"0"}  # the models, and nothing that is made with them
        assert server.images(again)["s"][0].tobytes() == before.tobytes()
    assert ends[0].succeeded
    assert ends[1].interrupted
    told_plainly(ends[2], "step 1 is not a finite number")


def test_two_token_sets_do_not_see_each_other(server: Server) -> None:
    """Of the same names in one graph: each draws what it draws alone."""
    pair = {**training(steps=6, seed=4), **drawing(0, "a drawing of a embedding:3", ("3", 1))}
    pair["33"] = changed(pair, {"3.seed": 5})["3"]
    pair |= {f"{name}2": what for name, what in drawing(1, "a drawing of a embedding:3", ("33", 1)).items()}
    for name in ("k2", "v2", "s2"):
        for value in pair[name]["inputs"].values():
            if isinstance(value, list) and value[0] in ("p", "k", "v"):
                value[0] += "2"
    alone = []
    for last in ("s", "s2"):
        server.forget()
        alone.append(server.images(server.run(needed(pair, last)))[last][0].tobytes())
    server.forget()
    run = server.run(needed(pair, "s", "s2"))
    assert run.cached == set()
    together = server.images(run)
    assert [together["s"][0].tobytes(), together["s2"][0].tobytes()] == alone
    assert alone[0] != alone[1]


def learned(base: Path) -> dict[str, torch.Tensor]:
    return load_file(base / "models" / "mcti_tokens" / "learned.safetensors")


# -- without a CLIP space ---------------------------------------------------------------------------------------------------


def test_without_a_clip_space_it_is_textual_inversion_and_the_diffusion_classifier(server: Server) -> None:
    plain = training(steps=8)
    del plain["3"]["inputs"]["clip_space"]
    models = {"model": ["0", 0], "vae": ["0", 2], "clip": ["0", 1], "tokens": ["3", 0], "method": "auto"}
    plain["5"] = node("PreviewAny", source=["3", 5])
    plain["6"] = node("MCTI_Evaluate", held_out=["0", 5], max_images_per_class=1, **models)
    plain["7"] = node("PreviewAny", source=["6", 1])
    plain["8"] = node("EmptyImage", width=64, height=64, batch_size=1, color=0)
    plain["9"] = node("MCTI_Classify", images=["8", 0], top_k=3, threshold=0.0, calibrate_threshold=False, **models)
    plain["10"] = node("PreviewAny", source=["9", 0])
    run = server.run(plain)
    assert run.succeeded, run.error
    assert run.texts("5")[0].startswith("plain textual inversion (no CLIP space is connected")
    assert "| tokens, diffusion |" in run.texts("7")[0]
    assert run.texts("10")[0] in "0123456789"
    assert load_tokens(server.base / "models" / "mcti_tokens" / "learned.safetensors").training["gamma"] == 0
