"""Measure classifying: images per second by CLIP against the vision tower alone, and UNet evaluations per image by diffusion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from mcti_core.classifiers.clip import ClipClassifier
from mcti_core.classifiers.diffusion import DiffusionClassifier
from mcti_core.data.dataset import FewShotDataset
from mcti_core.data.feature_cache import FeatureCache
from mcti_core.hosts.base import Host
from mcti_core.hosts.clip_preprocess import CLIP_MEAN, CLIP_STD, clip_preprocess
from mcti_core.hosts.diffusers.clip_space import ClipModelSpace
from mcti_core.hosts.diffusers.loading import DTYPES
from mcti_core.training.initial import new_tokens
from mcti_core.training.loop import TrainConfig, train

from .models import clip_model
from .timing import Case, interleaved

__all__ = ["clip_rows", "diffusion_rows", "with_vision_tower"]

ALL = "all classes on all pairs"


def with_vision_tower(host: Host, vision: Mapping[str, int], dtype: str) -> Host:
    """The host with a CLIP space of random weights whose vision tower is this one."""
    with torch.device(host.device):
        model = clip_model(vision).to(DTYPES[dtype]).eval().requires_grad_(False)
    return replace(host, clip=ClipModelSpace(model, "clip_l", vision["image_size"], CLIP_MEAN, CLIP_STD))


def clip_rows(host: Host, batch_size: int, repeats: int, classes: int = 10) -> list[dict[str, Any]]:
    """Images per second of the CLIP classifier, and of tower and projection alone on the same preprocessed images."""
    space: Any = host.require_clip()
    labels = [f"thing {index}" for index in range(classes)]
    classifier = ClipClassifier(host, new_tokens(host, labels))
    images = torch.rand(batch_size, 3, host.image_size, host.image_size)
    pixels = clip_preprocess(images, space.size).to(host.device, space.module.dtype)

    @torch.inference_mode()
    def bare() -> None:
        space.module.visual_projection(space.module.vision_model(pixel_values=pixels).pooler_output)

    cases = {
        "bare vision tower": Case(bare, batch_size),
        "CLIP classifier": Case(lambda: classifier.scores(images), batch_size),
    }
    found = interleaved(cases, repeats, str(host.device))
    base = found["bare vision tower"].median
    return [
        {"images through": name, "images/s": each.rate, "slowest to fastest": each.rates, "share": base / each.median}
        for name, each in found.items()
    ]


def diffusion_rows(
    host: Host, support: FewShotDataset, queries: FewShotDataset, config: TrainConfig, repeats: int, pairs: int = 64
) -> list[dict[str, Any]]:
    """All classes on all pairs against the sequential test: evaluations, images per second, and agreement."""
    cache = FeatureCache.build(host, support, hflip=False)
    tokens = train(host, cache, new_tokens(host, cache.classes), config).tokens
    images = torch.stack(list(queries.load(host.image_size)))
    ways = {
        ALL: DiffusionClassifier(host, tokens, num_trials=pairs, alpha=0.0),
        "sequential test": DiffusionClassifier(host, tokens, num_trials=pairs),
    }
    cases = {name: Case(lambda way=way: way.scores(images), len(images)) for name, way in ways.items()}
    found = interleaved(cases, repeats, str(host.device))
    scores = {name: way.scores(images) for name, way in ways.items()}
    answers = {name: each.logits.argmax(1) for name, each in scores.items()}
    return [
        {
            "diffusion classifier": name, "evaluations per image": scores[name].evaluations.float().mean().item(),
            "images/s": found[name].rate, "slowest to fastest": found[name].rates,
            "same answer, %": 100 * (answers[name] == answers[ALL]).float().mean().item(),
            "right, %": 100 * (answers[name] == queries.labels).float().mean().item(),
        }
        for name in ways
    ]  # fmt: skip
