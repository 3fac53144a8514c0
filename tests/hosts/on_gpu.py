"""Check the pack on this machine's graphics card: ComfyUI's default loader against its static one.

    python -m tests.hosts.on_gpu ~/ComfyUI
    python -m tests.hosts.on_gpu ~/ComfyUI --checkpoint v1-5-pruned-emaonly-fp16.safetensors

Run it by ComfyUI's Python. Each loader trains tokens in a server of its own: with the pocket checkpoint, and with one of
``models/checkpoints``. Tokens must have moved in the same direction, and the pocket's must recognise digits. With dynamic VRAM
(ComfyUI v0.16.0 and newer, NVIDIA) training also runs with too little memory: 90 % of the card is set aside.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from mcti_core.tokens.io import load_tokens
from mcti_core.tokens.token_set import TokenSet

from .server import Graph, Server, node

__all__ = ["main"]

LEAST_ALIKE = 0.99
"""Cosine of two trainings' moves; half precision on a card does not repeat itself to the bit."""
STEPS = 20
STATIC = "--disable-dynamic-vram"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    comfyui = options.comfyui.expanduser().resolve()
    loaders: dict[str, tuple[str, ...]] = {"the default loader": ()}
    if STATIC in (comfyui / "comfy" / "cli_args.py").read_text(encoding="utf-8"):
        loaders["the static loader"] = (STATIC,)
        if not options.cpu:
            loaders["too little memory"] = ("--reserve-vram", str(_most_of_the_card()))
    models = ["pocket", *options.checkpoint]
    found = {name: _trained(comfyui, choice, models, options.cpu) for name, choice in loaders.items()}
    right = found.get("the static loader", found["the default loader"])
    wrong = 0
    for name, by_model in found.items():
        for model, (tokens, report) in by_model.items():
            alike = _alike(tokens, right[model][0])
            wrong += alike < LEAST_ALIKE
            print(f"{name}, {model}: moves {alike:.4f} alike{' - WRONG' if alike < LEAST_ALIKE else ''}. {report}")
    return 1 if wrong else 0


def _trained(
    comfyui: Path, options: tuple[str, ...], models: Sequence[str], cpu: bool
) -> dict[str, tuple[TokenSet, str]]:
    """By model, the tokens and what Evaluate says."""
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        (base / "models").mkdir()
        (base / "models" / "checkpoints").symlink_to(comfyui / "models" / "checkpoints", target_is_directory=True)
        found = {}
        with Server(comfyui, base, options, cpu=cpu) as server:
            for model in models:
                run = server.run(_graph(model), timeout=3600)
                if not run.succeeded:
                    raise SystemExit(f"{model}: {run.error.get('exception_message', run.history)}")
                (path,) = (base / "models" / "mcti_tokens").glob(f"{_name(model)}.safetensors")
                found[model] = load_tokens(path), _accuracies(run.texts("shown"))
        return found


def _graph(model: str) -> Graph:
    """Train and save; the pocket's tokens are also evaluated."""
    pocket = node("MCTI_Pocket", shots=5, seed=0)
    save = node("MCTI_SaveTokens", tokens=["train", 0], name=_name(model), format="token set", folder="")
    parts: dict[str, Any] = {"examples": ["pocket", 4], "seed": 0}
    if model == "pocket":
        parts |= {name: ["pocket", i] for i, name in enumerate(("model", "clip", "vae", "clip_space"))}
        train = node("MCTI_TrainTokens", **parts, steps=150, batch_size=20, lr=0.02, gamma=0.1)
        given = {"tokens": ["train", 0], "clip": ["pocket", 1], "clip_space": ["pocket", 3]}
        evaluate = node("MCTI_Evaluate", held_out=["pocket", 5], **given, method="auto", max_images_per_class=0)
        shown = node("PreviewAny", source=["evaluate", 1])
        return {"pocket": pocket, "train": train, "save": save, "evaluate": evaluate, "shown": shown}
    parts |= {name: ["checkpoint", i] for i, name in enumerate(("model", "clip", "vae"))}
    train = node("MCTI_TrainTokens", **parts, steps=STEPS, batch_size=4, lr=0.005, gamma=0.0)
    return {
        "pocket": pocket,
        "checkpoint": node("CheckpointLoaderSimple", ckpt_name=model),
        "train": train,
        "save": save,
    }


def _name(model: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in model)


def _accuracies(texts: Sequence[str]) -> str:
    """The rows of Evaluate's first table, without its lines."""
    rows = [
        line.strip("| ").replace("|", "")
        for line in "\n".join(texts).splitlines()
        if line.startswith("|") and "%" in line
    ]
    return "; ".join(" ".join(row.split()) for row in rows[:4])


def _alike(a: TokenSet, b: TokenSet) -> float:
    """Cosine between the vectors of two trainings that began alike, less what all classes share."""
    moves = [torch.cat([(v - v.mean(0)).flatten() for v in tokens.vectors.values()]) for tokens in (a, b)]
    return float(torch.cosine_similarity(*moves, dim=0))


def _most_of_the_card() -> int:
    return round(0.9 * torch.cuda.get_device_properties(0).total_memory / 2**30)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Check MC-TI on this machine's graphics card.")
    parser.add_argument("comfyui", type=Path, help="ComfyUI's folder")
    parser.add_argument("--checkpoint", nargs="*", default=[], help="files in models/checkpoints to train with, too")
    parser.add_argument("--cpu", action="store_true", help="on the CPU, to try the command itself")
    return parser


if __name__ == "__main__":
    sys.exit(main())
