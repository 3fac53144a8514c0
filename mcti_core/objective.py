"""One step's two loss terms, from random draws: which prompts, images, noise levels and noise.

``losses.py`` and ``diffusion.py`` hold the formulas; this file draws what goes into them.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .config import TrainConfig
from .diffusion import noise_error, random_sigmas
from .features import FeatureCache
from .hosts.base import Host, TextFeatures
from .losses import class_logits, classification_loss
from .micro_batches import in_micro_batches
from .prompts import Prompts, encode_prompts

__all__ = ["ClassPrompts", "discriminative_loss", "encode_classes", "reconstruction_loss"]


class ClassPrompts:
    """One encoded prompt of each of S classes: it conditions the denoiser and is classified itself.

    Args:
        classes: (S,) int64, ascending: the classes, in label order.
        text: every encoder's features of their prompts, S rows.
        pooled_at: by encoder, (S,) positions where the text feature is read.
    """

    def __init__(self, classes: Tensor, text: Mapping[str, TextFeatures], pooled_at: Mapping[str, Tensor]):
        self.classes, self.text, self.pooled_at = classes, text, pooled_at

    def context(self, labels: Tensor) -> dict[str, TextFeatures]:
        """(B,) labels, each among the classes -> features of their prompts, B rows."""
        row = torch.searchsorted(self.classes, labels)
        return {name: features.rows(row.to(features.end.device)) for name, features in self.text.items()}

    def pooled(self, encoder: str) -> Tensor:
        """(S, d) the pooled hidden states of one encoder."""
        hidden = self.text[encoder].hidden
        return hidden[torch.arange(len(hidden), device=hidden.device), self.pooled_at[encoder].to(hidden.device)]


def encode_classes(
    host: Host,
    prompts: Mapping[str, Prompts],
    vectors: Mapping[str, Tensor],
    active: Tensor,
    chosen: Tensor,
    pooling: str,
    generator: torch.Generator,
) -> ClassPrompts:
    """Encode the chosen classes, each in a random template, the same for all encoders.

    Args:
        prompts: by encoder, all K templates.
        vectors: by encoder, (A, V, d) of the active classes.
        active: (A,) int64, ascending.
        chosen: (S,) int64, ascending, a part of the active ones.
        pooling: ``"eot"`` or ``"token"``.
    """
    templates = len(next(iter(prompts.values())).ids)
    row = torch.searchsorted(active, chosen)
    # drawn for all, so that the draws that follow do not depend on which classes are chosen
    template = torch.randint(0, templates, (len(active),), generator=generator)[row]
    picked = {name: p.rows(template) for name, p in prompts.items()}
    text = encode_prompts(host, picked, {name: v[row.to(v.device)] for name, v in vectors.items()})
    return ClassPrompts(chosen, text, {name: p.pooled_at(pooling) for name, p in picked.items()})


def reconstruction_loss(
    host: Host, cache: FeatureCache, images: Tensor, text: Mapping[str, TextFeatures], generator: torch.Generator,
    micro_batch: int = 0,
) -> Tensor:  # fmt: skip
    """L_ldm: the noise error of the images' latents under their class's prompt, at uniformly random time steps.

    Args:
        images: (B,) int64 indices into the cache; each image or its mirror image is taken.
        text: features of each image's prompt, B rows.
        micro_batch: most images through the denoiser at once; 0 for all.

    Returns:
        (B,) float32.
    """
    denoiser, latents = host.need_denoiser(), _random_view(cache.latents, images, generator)
    sigma = random_sigmas(denoiser.sigmas.cpu(), len(images), generator)
    noise = torch.randn(latents.shape, generator=generator)
    latents, sigma, noise = latents.to(host.device), sigma.to(host.device), noise.to(host.device)

    def losses(part: slice, text: Mapping[str, TextFeatures]) -> Tensor:
        clean, level = latents[part], sigma[part]
        estimate = denoiser.denoise(denoiser.noised(clean, noise[part], level), level, text)
        return denoiser.weight(level) * noise_error(clean, estimate, level)

    if 0 < micro_batch < len(images):
        return in_micro_batches(losses, text, micro_batch)
    return losses(slice(None), text)


def discriminative_loss(
    host: Host, cache: FeatureCache, prompts: ClassPrompts, config: TrainConfig, generator: torch.Generator
) -> Tensor:
    """L_cls of one prompt of each of S classes against one random image of every class: (S,) float32."""
    clip = host.need_clip()
    images = torch.stack([_random_member(cache.labels, index, generator) for index in range(len(cache.classes))])
    features = _random_view(cache.features, images, generator).to(host.device)  # (C, p)
    logits = class_logits(clip.project_text(prompts.pooled(clip.encoder)), features, config.logit_scale)  # (S, C)
    return classification_loss(logits, prompts.classes.to(host.device), config.direction)


def _random_view(stored: Tensor | None, images: Tensor, generator: torch.Generator) -> Tensor:
    assert stored is not None  # train has seen to it
    return stored[images, torch.randint(0, stored.shape[1], (len(images),), generator=generator)]


def _random_member(labels: Tensor, label: int, generator: torch.Generator) -> Tensor:
    members = (labels == label).nonzero()[:, 0]
    return members[torch.randint(0, len(members), (), generator=generator)]
