"""``mcti generate``: generate images with learned tokens. Each is saved as soon as it is finished."""

from __future__ import annotations

import argparse

from torch import Tensor

from ..errors import counted, listed
from ..escaping import escaped
from ..files.output_lock import lock_output
from ..files.provenance import check_outputs, is_marked, write_png
from ..prompts.syntax import parse_prompt
from ..sampling import generate
from ..tokens.io import load_tokens
from ..viz.image_grid import to_pil
from .console import INTERRUPTED, progress_bar, say
from .options import host_of
from .signals import signals_as_keyboard_interrupt

__all__ = ["run_generate"]

_BATCH_SIZE, _POCKET_BATCH_SIZE = 4, 8
"""Batch sizes; an interruption loses at most one batch."""


def run_generate(arguments: argparse.Namespace) -> int:
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
