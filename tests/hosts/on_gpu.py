"""Check the pack on this machine's graphics card: ComfyUI's default loader against its static one.

    python -m tests.hosts.on_gpu ~/ComfyUI
    python -m tests.hosts.on_gpu ~/ComfyUI --checkpoint v1-5-pruned-emaonly-fp16.safetensors --small-card 6

Run it by ComfyUI's Python. Each loader trains tokens in a server of its own: with the pocket checkpoint, with checkpoints of
``models/checkpoints``, and with the first one's parts but a UNet of ``models/diffusion_models``. In one server, tokens are
trained, images drawn, tokens trained again, and a training is cancelled and resumed. All must have moved in the same direction.
``tests.hosts.real_sizes`` makes models of real size, for a machine without any.

With ``--small-card`` another process takes the card but for so many GB, one number per checkpoint.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import traceback
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import zip_longest
from pathlib import Path
from typing import Any

from .on_gpu_card import Card
from .on_gpu_checks import Checks, table
from .on_gpu_loader import Loader

__all__ = ["main"]

STATIC = "--disable-dynamic-vram"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    comfyui = options.comfyui.expanduser().resolve()
    has_dynamic = STATIC in (comfyui / "comfy" / "cli_args.py").read_text(encoding="utf-8")
    kinds: dict[str, tuple[str, ...]] = {"static": (STATIC,), "default": ()} if has_dynamic else {"default": ()}
    with ExitStack() as stack:
        folder = options.logs or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        last = options.steps[-1]
        steps = dict(zip_longest(options.checkpoint, options.steps[: len(options.checkpoint)], fillvalue=last))
        checks = Checks(options.side, steps, options.batch, options.clip_space, options.seconds, options.longest)
        card = None if options.cpu else stack.enter_context(Card())
        loaders = {
            name: Loader(name, comfyui, folder.resolve() / name, extra, options.cpu) for name, extra in kinds.items()
        }
        for loader in loaders.values():
            stack.callback(loader.server.stop)
        try:
            with ThreadPoolExecutor() as pool:  # starting takes longer than most checks
                dynamic = dict(zip(loaders, pool.map(lambda loader: loader.start(), loaders.values()), strict=True))
            if card is not None and has_dynamic and not dynamic["default"]:
                checks.failed.append("dynamic VRAM is off in the default loader")
            _run(checks, loaders, options, card)
        except BaseException:
            traceback.print_exc()
            checks.failed.append("ended before all was done")
    print(table(checks.rows), flush=True)
    print("\n".join(f"FAILED: {problem}" for problem in checks.failed) or "all alike", flush=True)
    if options.output_json:
        options.output_json.write_text(
            json.dumps({"rows": checks.rows, "failed": checks.failed}, indent=2), encoding="utf-8"
        )
    return 1 if checks.failed else 0


def _run(checks: Checks, loaders: dict[str, Loader], options: Any, card: Card | None) -> None:
    """In the order of worth, in case time runs out."""
    default = loaders["default"]
    for loader in () if options.without_pocket else loaders.values():
        checks.trying(checks.pocket, loader)
    for number, model in enumerate(options.checkpoint):
        for loader in loaders.values():
            checks.trying(checks.train, loader, model)
        checks.trying(checks.draw, default, model)
        checks.trying(checks.train, default, model, "after drawing")
        if number == 0:
            checks.trying(checks.resume, default, model)
            for method in ("auto", "diffusion"):
                checks.trying(checks.classify, default, model, method)
    for unet, _, dtype in (name.partition(":") for name in options.unet):
        for loader in loaders.values():
            checks.trying(checks.train, loader, options.checkpoint[0], unet=(unet, dtype or "default"))
    if card is None:
        return
    for loader in reversed(loaders.values()):  # the default loader first
        for model, size in zip(options.checkpoint, options.small_card, strict=False):
            for each in loaders.values():
                each.free()
            with card.all_but(size) as free:
                what = f"with {free / 1e9:.1f} GB free"
                checks.trying(checks.train, loader, model, what)
                if loader is default:
                    checks.trying(checks.draw, loader, model, what)
                    checks.trying(checks.train, loader, model, f"{what}, after drawing")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Check MC-TI on this machine's graphics card.")
    parser.add_argument("comfyui", type=Path, help="ComfyUI's folder")
    parser.add_argument("--checkpoint", nargs="*", default=[], help="files in models/checkpoints to train with, too")
    parser.add_argument("--without-pocket", action="store_true", help="train with the given checkpoints only")
    parser.add_argument(
        "--unet",
        nargs="*",
        default=[],
        help="files in models/diffusion_models for the first checkpoint, or file:weight_dtype",
    )
    parser.add_argument("--clip-space", help="file in models/clip_vision for the first checkpoint: MC-TI, not only TI")
    parser.add_argument(
        "--small-card", nargs="*", type=float, default=[], help="GB of the cards to imitate, one per checkpoint"
    )
    parser.add_argument(
        "--steps", nargs="+", type=int, default=[20], help="of a training, one number per checkpoint or one for all"
    )
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument(
        "--side", type=int, default=0, help="pixels of examples and images; 0: what the model was made for"
    )
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no check after so many")
    parser.add_argument("--longest", type=float, default=3600, help="seconds that one graph may take")
    parser.add_argument("--logs", type=Path, help="empty folder for what the servers say and the tokens")
    parser.add_argument("--output-json", type=Path, help="write all figures here")
    parser.add_argument("--cpu", action="store_true", help="on the CPU, to try the command itself")
    return parser


if __name__ == "__main__":
    sys.exit(main())
