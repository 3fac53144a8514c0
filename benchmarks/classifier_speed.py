"""Classifying: images a second by CLIP against the bare vision tower, and UNet evaluations an image by diffusion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from mcti_core.classifiers import ClipClassifier, DiffusionClassifier
from mcti_core.examples import FewShotDataset
from mcti_core.experiments import new_tokens
from mcti_core.features import FeatureCache
from mcti_core.hosts.base import Host
from mcti_core.hosts.clip_image import CLIP_MEAN, CLIP_STD, clip_pixels
from mcti_core.hosts.diffusers import ClipModelSpace
from mcti_core.training import TrainConfig, train

from .models import clip_model
from .timing import DTYPES, Case, interleaved, seconds

__all__ = ["clip_rows", "diffusion_rows", "with_vision_tower"]


def with_vision_tower(host: Host, vision: Mapping[str, int], dtype: str) -> Host:
    """The host with a CLIP space of random weights whose vision tower is this one."""
    with torch.device(host.device):
        model = clip_model(vision).to(DTYPES[dtype]).eval().requires_grad_(False)
    return replace(host, clip=ClipModelSpace(model, "clip_l", vision["image_size"], CLIP_MEAN, CLIP_STD))


def clip_rows(host: Host, batch: int, repeats: int, classes: int = 10) -> list[dict[str, Any]]:
    """A batch of images as they come, in a batch as the tower takes it: the same images through tower and projection alone."""
    space: Any = host.need_clip()
    labels = [f"thing {index}" for index in range(classes)]
    classifier = ClipClassifier(host, new_tokens(host, labels))
    images = torch.rand(batch, 3, host.image_size, host.image_size)
    pixels = clip_pixels(images, space.size).to(host.device, space.module.dtype)

    @torch.inference_mode()
    def bare() -> None:
        space.module.visual_projection(space.module.vision_model(pixel_values=pixels).pooler_output)

    cases = {"bare vision tower": Case(bare, batch), "CLIP classifier": Case(lambda: classifier.score(images), batch)}
    found = interleaved(cases, repeats, str(host.device))
    base = found["bare vision tower"]
    return [{"images through": name, "images/s": 1 / each, "share": base / each} for name, each in found.items()]


def diffusion_rows(
    host: Host, support: FewShotDataset, queries: FewShotDataset, config: TrainConfig, pairs: int = 64
) -> list[dict[str, Any]]:
    """All classes on all pairs, and the sequential test: evaluations and images a second, and how often they agree."""
    cache = FeatureCache.build(host, support, mirror=False)
    tokens = train(host, cache, new_tokens(host, cache.classes), config).tokens
    images = torch.stack(list(queries.load(host.image_size)))
    rows: list[dict[str, Any]] = []
    answers = {}
    for name, error in (("all classes on all pairs", 0.0), ("sequential test", None)):
        told = {} if error is None else {"error": error}
        classifier, found = DiffusionClassifier(host, tokens, pairs=pairs, **told), []
        spent = seconds(
            lambda classifier=classifier, found=found: found.append(classifier.score(images)), str(host.device)
        )
        answers[name] = found[0].logits.argmax(1)
        full = answers["all classes on all pairs"]
        rows.append({
            "diffusion classifier": name, "evaluations an image": found[0].evaluations.float().mean().item(),
            "images/s": len(images) / spent, "same answer, %": 100 * (answers[name] == full).float().mean().item(),
            "right, %": 100 * (answers[name] == queries.labels).float().mean().item(),
        })  # fmt: skip
    return rows
