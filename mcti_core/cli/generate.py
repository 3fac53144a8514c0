"""``mcti generate``: generate images with learned tokens. Each is saved as soon as it is finished."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import counted, listed
from ..escaping import escaped
from . import argument_types as types
from .console import INTERRUPTED, progress_bar, say
from .options import add_model, add_overwriting, host_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["add_generate", "run_generate"]

_BATCH_SIZE, _POCKET_BATCH_SIZE = 4, 8
"""Batch sizes; an interruption loses at most one batch."""


def add_generate(command: argparse.ArgumentParser) -> None:
    """Add the options of ``mcti generate``."""
    option = command.add_argument
    option("--tokens", type=types.path, required=True, help="a token set: the file, or its folder")
    option("--prompt", required=True, help="'{}' stands for every class; '{name}' or 'embedding:name' for one")
    option("--negative-prompt", default="", help="negative prompt")
    option("--output-dir", "-o", type=types.folder_path, default=Path("generated"), help="folder for the images")
    option("--num-images", type=types.count, default=4, help="images per prompt")
    option("--num-inference-steps", type=types.count, default=25, help="denoising steps per image")
    option("--guidance-scale", type=types.number(), default=5.0, help="guidance scale; 1 disables guidance")
    option("--seed", type=types.seed, default=0, help="seed of the initial noise")
    add_overwriting(command)
    add_model(command)


def run_generate(arguments: argparse.Namespace) -> int:
    from ..files.output_lock import lock_output
    from ..files.provenance import check_outputs, is_marked, write_png
    from ..prompts.syntax import parse_prompt
    from ..sampling import generate
    from ..tokens.io import load_tokens
    from ..viz.image_grid import to_pil
    from .signals import signals_as_keyboard_interrupt

    tokens = load_tokens(arguments.tokens)
    fillings = tokens.names if "{}" in arguments.prompt else ("",)
    prompts = [arguments.prompt.replace("{}", f"{{{name}}}") for name in fillings for _ in range(arguments.num_images)]
    # parsed before the model is loaded, so that an invalid prompt is an error at once
    texts = dict.fromkeys((*prompts, arguments.negative_prompt))
    pieces = [piece for text in texts for piece, _ in parse_prompt(text, tokens.names, tokens.labels)]
    hint = f"'{{}}' draws every class, '{{{tokens.names[0]}}}' this one"
    if not any(isinstance(piece, int) for piece in pieces):
        say(f"the prompt names no token of the set, so none is drawn; {hint}")
    stems = [f"{name or 'image'}-{number:02d}" for name in fillings for number in range(arguments.num_images)]
    out, images = arguments.output_dir, counted(len(stems), "image")
    paths = [out / f"{stem}.png" for stem in stems]
    written = []

    def on_image(number: int, image: Tensor) -> None:
        written.append(write_png(to_pil(image), paths[number]))

    with lock_output(out, folder=True), signals_as_keyboard_interrupt():
        check_outputs(paths, overwrite=arguments.overwrite)
        host = host_of(arguments)
        try:
            with progress_bar("generating", "image") as progress:
                generate(
                    host, prompts, tokens, negative_prompt=arguments.negative_prompt, seed=arguments.seed, progress=progress, on_image=on_image,
                    num_inference_steps=arguments.num_inference_steps, guidance_scale=arguments.guidance_scale,
                    batch_size=_BATCH_SIZE if arguments.model else _POCKET_BATCH_SIZE,
                )  # fmt: skip
        except KeyboardInterrupt:
            print(escaped(f"interrupted: {len(written)} of {images} are in {out}"))
            return INTERRUPTED
    print(escaped(f"{images} in {out}"))
    earlier = [path.name for path in sorted(set(out.glob("*.png")) - set(paths)) if is_marked(path)]
    if arguments.overwrite and earlier:
        say(f"{out} also holds {counted(len(earlier), 'image')} of an earlier run: {listed(earlier)}")
    return 0
