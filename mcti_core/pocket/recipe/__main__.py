"""Train the pocket checkpoint from Omniglot's public files and fonts, in some hours on one CPU core.

    python -m mcti_core.pocket.recipe --omniglot images_background_small1.zip images_background_small2.zip \
        --fonts node_modules/@fontsource --output-dir FOLDER

Each stage saves its whole state in FOLDER/parts every few minutes. After an interruption, the same command continues from
there. A finished stage continues if --steps gives it more steps.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from torch import nn
from transformers import CLIPModel, CLIPTokenizer

from .autoencoder import make_autoencoder, psnr, train_autoencoder
from .omniglot import words_for
from .publish import publish
from .quality import pocket_figures
from .shapes import held_out_images, load_shapes
from .stage import Stage
from .teacher import Teacher, train_teacher
from .text import identities_of, make_clip, train_text
from .unet import make_unet, train_unet
from .vision import train_vision
from .vocabulary import write_tokenizer

STEPS = {"autoencoder": 3000, "teacher": 3500, "text": 400, "vision": 7000, "unet": 18000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--omniglot", nargs="+", type=Path, required=True, help="the two images_background_small*.zip files"
    )
    parser.add_argument("--fonts", type=Path, help="node_modules/@fontsource with the packages of fonts.txt")
    parser.add_argument("--output-dir", "-o", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--start-from", type=Path, help="an earlier checkpoint with the initial weights")
    parser.add_argument(
        "--steps",
        nargs="*",
        default=[],
        metavar="STAGE=N",
        help=f"steps per stage, by default {STEPS}; 0 keeps the part of --start-from",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of every stage")
    arguments = parser.parse_args()
    steps = STEPS | {name: int(count) for name, count in (given.split("=") for given in arguments.steps)}
    parts = arguments.output_dir / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    earlier = arguments.start_from

    glyphs, held_masks = load_shapes(arguments.omniglot, arguments.fonts, parts / "shapes.pt")
    held_out = held_out_images(held_masks, torch.Generator().manual_seed(6))
    words = words_for(glyphs.classes_with_words)
    tokenizer = write_tokenizer(parts / "tokenizer", words)

    def stage(name: str) -> Stage:
        torch.manual_seed(arguments.seed)  # for the initial weights
        return Stage(parts / f"{name}.pt", steps[name], arguments.seed)

    def finished(name: str, model: Any, started: float) -> Any:
        print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
        return model.float().eval().requires_grad_(False)

    def first_weights(model: nn.Module, kind: Any, folder: str) -> nn.Module:
        if earlier is not None:
            model.load_state_dict(kind.from_pretrained(earlier / folder).float().state_dict())
        return model

    warm, started = earlier is not None, time.monotonic()
    torch.manual_seed(arguments.seed)
    autoencoder = first_weights(make_autoencoder(), AutoencoderTiny, "vae")
    if steps["autoencoder"]:
        train_autoencoder(autoencoder, glyphs, stage("autoencoder"))
    finished("autoencoder", autoencoder, started)

    torch.manual_seed(arguments.seed)
    clip = first_weights(make_clip(len(tokenizer)), CLIPModel, "clip")
    teacher = Teacher(glyphs.classes)
    if warm:  # the other parts have learned to read these identities
        teacher.prototype.data[: len(words)] = identities_of(clip, tokenizer, words)
    train_teacher(teacher, glyphs, held_out, stage("teacher"))
    finished("teacher", teacher, started)

    train_text(clip, tokenizer, words, teacher.prototypes, stage("text"), warm=warm)
    finished("text", clip, started)

    for part in (clip.vision_model, clip.visual_projection):
        part.requires_grad_(True)
    train_vision(clip, tokenizer, teacher, glyphs, held_out, stage("vision"), warm=warm)
    finished("vision", clip, started)

    torch.manual_seed(arguments.seed)
    unet = first_weights(make_unet(), UNet2DConditionModel, "unet")
    unet = train_unet(unet, autoencoder, clip, tokenizer, teacher, glyphs, stage("unet"))
    finished("unet", unet, started)

    probe = glyphs.batch(256, torch.Generator().manual_seed(2), test=True)[0]
    figures = {"psnr_db": round(psnr(autoencoder, probe), 2), "steps": steps, "seed": arguments.seed}
    publish(arguments.output_dir, autoencoder, clip, CLIPTokenizer.from_pretrained(parts / "tokenizer"), unet, figures)
    figures |= pocket_figures(arguments.output_dir, glyphs, words)
    print(figures)
    publish(arguments.output_dir, autoencoder, clip, tokenizer, unet, figures)


if __name__ == "__main__":
    main()
