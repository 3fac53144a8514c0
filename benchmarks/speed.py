"""Measure the speed of training and classifying, against the usual recipe and against the device's matrix rate.

Usage: python -m benchmarks.speed [--model pocket|sd15-small|sd15-small-sdvae|sd15|sdxl] [--device cuda] [--dtype bf16]
                                  [--quick] [--steps N] [--rounds N] [--no-compile] [--no-memory] [--output-json FILE] [--threads N] [--models FOLDER]
                                  [--parts training variants limit classifiers]

Everything that is compared is measured in one run, in turns, and medians count: on a machine with other work, ratios are more
reliable than absolute times. Weights and images are random, which does not change any duration.

training     samples per second and peak memory: the usual recipe (``plain_recipe.py``) at its own settings, this library with one
             class at a time, and with all ten at once in batches of several sizes. ``times the recipe's`` is the ratio.
             ``of the matrix rate`` is the share of the rate of a large matrix product in the same dtype and the same run.
             The one-time preparation of ours is a separate row; the recipe gets its image features in advance too.
variants     the same training with gradient checkpointing, in parts, with the UNet's weights contiguous, in bf16, and compiled.
limit        operations of a step of SD 1.5 at 512 px, counted on a model without data.
classifiers  CLIP: images per second relative to the vision tower alone. Diffusion (pocket only): UNet evaluations per image.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mcti_core.hosts.diffusers.loading import quiet_libraries
from mcti_core.pocket import POCKET_CONFIG
from mcti_core.pocket.digits import digit_dataset

from .classifier_speed import clip_rows, diffusion_rows, with_vision_tower
from .models import MODELS, VIT_L, VIT_SMALL, model_folder, unet_flops
from .report import machine, parsed, show, write_json
from .training_speed import Setting, speed_rows, variant_rows

PARTS = ("training", "variants", "limit", "classifiers")
BATCHES = {"pocket": (8, 20, 40, 100), "sd15": (4, 8, 16, 40), "sdxl": (1, 4, 8)}
"""Images per step of ours; 40 is the recipe's number of images per class and step, for ten classes."""


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure the requested parts and print each as soon as it is finished. Returns the rows by part."""
    cuda = torch.device(options.device).type == "cuda"
    setting = Setting(folder, options.device, options.dtype, word="glyph" if options.model == "pocket" else "object")
    batches = BATCHES.get(options.model, (8, 40, 100))
    repeats = options.rounds or (2 if options.quick else 5)
    steps = options.steps or (2 if options.quick else 30 if cuda or options.model == "pocket" else 4)
    found: dict[str, Any] = {}

    def keep(part: str, rows: list[dict[str, Any]], title: str) -> None:
        found[part] = rows
        show(title, rows)

    if "training" in options.parts:
        tried = batches[1:2] if options.quick else batches
        rows = speed_rows(
            setting, tried, steps, repeats, recipe=options.model != "sdxl", with_memory=not options.no_memory
        )
        keep("training", rows, f"Training, {options.model}, {options.dtype}, {torch.get_num_threads()} threads")
    if "variants" in options.parts:
        compiled = not (options.quick or options.no_compile)
        rows = variant_rows(setting, batches[1], max(1, steps // 4), min(3, repeats), compiled)
        keep("variants", rows, f"Variants, batch {batches[1]}")
    if "limit" in options.parts:
        keep("sd15 at 512 px", [unet_flops("sd15")], "One sample through the UNet of SD 1.5, TFLOP")
    if "classifiers" in options.parts:
        vision, images = (VIT_SMALL, 8) if options.quick else (VIT_L, 64 if cuda else 4)
        host = setting.host if options.model == "pocket" else with_vision_tower(setting.host, vision, options.dtype)
        images = 64 if options.model == "pocket" else images
        keep("clip", clip_rows(host, images, repeats), f"CLIP, batches of {images}")
        if options.model == "pocket":
            keep(
                "diffusion",
                _digits(setting, options.quick, 2 if options.quick else 3),
                "Diffusion classifier, ten digits",
            )
    return found


def _digits(setting: Setting, quick: bool, repeats: int) -> list[dict[str, Any]]:
    support, others = digit_dataset().split(5, 0)
    queries, _ = others.split(1 if quick else 3, 1)  # images per digit
    config = replace(POCKET_CONFIG, steps=20 if quick else POCKET_CONFIG.steps)
    return diffusion_rows(setting.host, support, queries, config, repeats)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cuda = torch.cuda.is_available()
    parser.add_argument("--model", choices=list(MODELS), default="sd15" if cuda else "sd15-small")
    parser.add_argument("--device", default="cuda" if cuda else "cpu")
    parser.add_argument("--dtype", choices=("fp32", "fp16", "bf16"), help="bf16 on a GPU, else fp32")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="fewer steps and sizes: to see that it runs")
    parser.add_argument("--steps", type=int, help="optimizer steps of the recipe per turn; ours gets as many images")
    parser.add_argument("--rounds", type=int, help="number of measured rounds")
    parser.add_argument("--no-compile", action="store_true", help="skip torch.compile, which takes minutes")
    parser.add_argument(
        "--no-memory", action="store_true", help="skip peak memory, which loads the models once per case"
    )
    parser.add_argument("--models", type=Path, help="folder of the synthetic models; by default a temporary one")
    options = parsed(parser, arguments)
    options.dtype = options.dtype or ("bf16" if torch.device(options.device).type == "cuda" else "fp32")
    quiet_libraries()
    with tempfile.TemporaryDirectory() as fresh:
        before = machine(options.device)
        found = measure(options, model_folder(options.model, options.models or Path(fresh), options.device))
    after = machine(options.device)
    settings = {"model": options.model, "dtype": options.dtype, "quick": options.quick}
    print(f"\n{before}")
    write_json(options.output_json, {"machine": before, "load afterwards": after["load"], **settings, **found})


if __name__ == "__main__":
    main()
