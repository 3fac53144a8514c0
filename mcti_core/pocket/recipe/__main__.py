"""Train the pocket checkpoint from the public Omniglot files: about two hours on two CPU cores.

    python -m mcti_core.pocket.recipe --omniglot images_background_small1.zip images_background_small2.zip --out FOLDER

Each stage saves its part in FOLDER/parts and is skipped when the part is there, so a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from transformers import CLIPModel, CLIPTokenizer

from .autoencoder import make_autoencoder, psnr, train_autoencoder
from .omniglot import HELD_OUT, Glyphs, held_out_images, load_masks, words_for
from .publish import publish
from .quality import pocket_figures
from .teacher import Teacher, train_teacher
from .text import make_clip, train_text
from .unet import make_unet, train_unet
from .vision import train_vision
from .vocabulary import write_tokenizer

STAGE_SECONDS = {"autoencoder": 900, "teacher": 560, "text": 110, "vision": 1500, "unet": 4200}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--omniglot", nargs="+", type=Path, required=True, help="the two images_background_small*.zip files"
    )
    parser.add_argument("--out", type=Path, required=True, help="where the checkpoint goes")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on every stage's seconds")
    parser.add_argument("--seed", type=int, default=0, help="of every stage")
    arguments = parser.parse_args()
    parts = arguments.out / "parts"
    parts.mkdir(parents=True, exist_ok=True)

    names, masks = load_masks(arguments.omniglot, parts / "masks.pt")
    held = torch.tensor([alphabet == HELD_OUT for alphabet, _ in names])
    glyphs = Glyphs(masks[~held])
    held_out = held_out_images(masks[held], torch.Generator().manual_seed(6))
    words = words_for(glyphs.classes)
    tokenizer = write_tokenizer(parts / "tokenizer", words)
    seconds = {name: value * arguments.scale for name, value in STAGE_SECONDS.items()}

    def stage(
        name: str, path: Path, load: Callable[[Path], Any], make: Callable[[], Any], save: Callable[[Any, Path], Any]
    ) -> Any:
        if not path.exists():
            torch.manual_seed(arguments.seed)
            started = time.monotonic()
            part = make()
            save(part, path)
            print(f"{name}: {time.monotonic() - started:.0f} s", flush=True)
        return load(path)

    def trained_autoencoder() -> AutoencoderTiny:
        model = make_autoencoder()
        train_autoencoder(model, glyphs, seconds["autoencoder"])
        return model

    def load_teacher(path: Path) -> Teacher:
        teacher = Teacher(glyphs.classes)
        teacher.load_state_dict(torch.load(path, weights_only=True))
        return teacher.eval().requires_grad_(False)

    def trained_text() -> CLIPModel:
        clip = make_clip(len(tokenizer))
        train_text(clip, tokenizer, words, teacher.prototypes, seconds["text"])
        return clip

    def trained_vision() -> CLIPModel:
        clip = load_frozen(CLIPModel, parts / "clip_text")
        for part in (clip.vision_model, clip.visual_projection):
            part.requires_grad_(True)
        train_vision(clip, tokenizer, words, teacher, glyphs, held_out, seconds["vision"])
        return clip

    def trained_unet() -> UNet2DConditionModel:
        return train_unet(make_unet(), autoencoder, text_clip, tokenizer, teacher, glyphs, seconds["unet"])

    def save_model(model: Any, path: Path) -> None:
        model.save_pretrained(path)

    def load_frozen(kind: Any, path: Path) -> Any:
        return kind.from_pretrained(path).eval().requires_grad_(False)

    autoencoder = stage(
        "autoencoder", parts / "vae", lambda p: load_frozen(AutoencoderTiny, p), trained_autoencoder, save_model
    )
    teacher = stage(
        "teacher",
        parts / "teacher.pt",
        load_teacher,
        lambda: train_teacher(glyphs, held_out, seconds["teacher"]),
        lambda t, p: torch.save(t.state_dict(), p),
    )
    text_clip = stage("text", parts / "clip_text", lambda p: load_frozen(CLIPModel, p), trained_text, save_model)
    clip = stage("vision", parts / "clip", lambda p: load_frozen(CLIPModel, p), trained_vision, save_model)
    unet = stage("unet", parts / "unet", lambda p: load_frozen(UNet2DConditionModel, p), trained_unet, save_model)

    probe = glyphs.batch(256, torch.Generator().manual_seed(2), test=True)[0]
    figures = {"psnr_db": round(psnr(autoencoder, probe), 2), "stage_seconds": seconds, "seed": arguments.seed}
    publish(arguments.out, autoencoder, clip, CLIPTokenizer.from_pretrained(parts / "tokenizer"), unet, figures)
    figures |= pocket_figures(arguments.out, glyphs, words)
    print(figures)
    publish(arguments.out, autoencoder, clip, tokenizer, unet, figures)


if __name__ == "__main__":
    main()
