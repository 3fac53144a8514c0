"""Classify by the diffusion model: the class whose prompt gives the smallest error of the predicted noise."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, HostError
from ..hosts.base import Host
from ..hosts.features import Features, joined
from ..hosts.out_of_memory import TEXT_TOO_LARGE, in_parts_that_fit
from ..images.tensors import as_batch
from ..losses import noise_error
from ..noise_levels import spread_sigmas
from ..prompts.splicing import conditioning, host_templates
from ..tokens.token_set import TokenSet
from .base import Classifier, Scores
from .sequential_test import best_class, sequential_elimination

__all__ = ["DiffusionClassifier", "evaluations_at_once"]

_VAE_PIXELS = 4 * 512 * 512
"""Pixels per batch of the VAE."""
_IMAGES_PER_CHUNK = 256
"""Number of images whose evaluations share batches, and whose errors are kept in memory."""
_MAX_BATCH = 128
"""Maximum number of evaluations per batch."""
_PROMPTS_PER_BATCH = 64
"""Prompts per batch of the text encoder."""
_MAX_CLASSES_ON_DEVICE = 128
"""Maximum number of classes whose contexts stay on the device (80 MB for SDXL); more are copied there when they are needed."""
_TOO_LARGE = "a single image does not fit into memory in the VAE; give smaller images, or close other programs"
_EVALUATION_TOO_LARGE = "a single evaluation of the diffusion model does not fit into memory; close other programs"
_MIN_LATENT_ELEMENTS = 4 * 64 * 64
"""Latent elements per channel that a batch may always have: four images of 512 x 512 pixels, with which SD 1.5 stays below 4 GB."""
_BYTES_PER_ELEMENT = 24_000
"""Memory per latent element of an evaluation: 17,000 bytes for SD 1.5 and 11,000 for SDXL in half precision (docs/performance.md), and a reserve."""


class DiffusionClassifier(Classifier):
    """argmin_c of the mean noise error over trials that all classes share; a trial is a pair of noise level and noise.

    Differences between classes on shared trials vary far less than the errors themselves. A class is eliminated as soon
    as it is unlikely to win (``sequential_test.py``), so most evaluations compare the few classes that are hard to tell
    apart, and an image is finished when one class is left.

    Args:
        num_trials: P, the maximum number of trials per class.
        alpha: level of the test, about the probability that early elimination changes an image's answer, from 0 (no
            early elimination) to 0.5.
        template: the prompt; by default the tokens' first.
        t_min, t_max: range of the noise levels, as fractions of the time steps.
        logit_scale: logits are -logit_scale * mean error.
        batch_size: denoiser evaluations per batch; by default as many as the device has memory for, at most 128. It is
            halved if memory runs out.
        seed: seed of the trials.

    Raises:
        ConfigError: ``num_trials`` or ``batch_size`` below 1, ``alpha`` outside [0, 0.5].
        HostError: while scoring, a noise error that is not finite, or an evaluation that does not fit into memory.

    References:
        Li et al., "Your Diffusion Model is Secretly a Zero-Shot Classifier", ICCV 2023, arXiv 2303.16203.
    """

    def __init__(
        self, host: Host, tokens: TokenSet, *, num_trials: int = 64, alpha: float = 0.1, template: str | None = None,
        t_min: float = 0.1, t_max: float = 0.7, logit_scale: float = 100.0, batch_size: int | None = None, seed: int = 0,
    ):  # fmt: skip
        if num_trials < 1 or (batch_size is not None and batch_size < 1):
            raise ConfigError(f"num_trials and batch_size must be at least 1, got {num_trials} and {batch_size}")
        if not 0 <= alpha <= 0.5:
            raise ConfigError(f"alpha is a probability from 0 (stop no class early) to 0.5, got {alpha}")
        self.host, self.labels, self.image_size = host, tokens.labels, host.image_size
        self.denoiser, self.codec = host.require_denoiser(), host.require_codec()
        self.num_trials, self.alpha, self.seed = num_trials, alpha, seed
        self.t_min, self.t_max, self.logit_scale, self.batch_size = t_min, t_max, logit_scale, batch_size
        self.conditioning = _class_contexts(host, tokens, template or tokens.templates[0])

    def scores(self, images: Any, candidates: Tensor | None = None) -> Scores:
        """Scores of any number of images; ``candidates`` (B, C) bool restricts the classes per image."""
        images = as_batch(images)
        at_once = max(1, _VAE_PIXELS // (images.shape[-1] * images.shape[-2]))
        with torch.inference_mode(), self.host.session("codec"):
            latents = in_parts_that_fit(
                lambda part: self.codec.encode(images[part].to(self.host.device)), len(images), at_once, _TOO_LARGE
            )
        return self.score_latents(torch.cat(latents), candidates)

    @torch.inference_mode()
    def score_latents(self, latents: Tensor, candidates: Tensor | None = None) -> Scores:
        """Scores of scaled latents (B, c, h, w)."""
        if candidates is None:
            candidates = torch.ones(len(latents), len(self.labels), dtype=torch.bool)
        logits, evaluations = [], []
        for chunk in zip(latents.split(_IMAGES_PER_CHUNK), candidates.split(_IMAGES_PER_CHUNK), strict=True):
            errors, counts = self.compare(*chunk)
            logits.append(-self.logit_scale * _aligned(errors, counts))
            evaluations.append(counts.sum(1))
        return Scores(torch.cat(logits), torch.cat(evaluations))

    @torch.inference_mode()
    def compare(self, latents: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """Noise errors (B, C, P) of each candidate, and the number (B, C) of trials for which they were computed.

        The errors of all images are kept in memory, so pass at most a few hundred images.
        """
        x0 = latents.to(self.host.device, torch.float32)
        sigmas, noises = self._trials(latents.shape[1:])

        def evaluate(undecided: Tensor, start: int, end: int) -> Tensor:
            return self._errors(x0, undecided, sigmas[start:end], noises[start:end])

        with self.host.session("denoiser"):
            return sequential_elimination(evaluate, candidates, self.num_trials, self.alpha)

    def _trials(self, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """The shared noise levels (P,) and noises (P, c, h, w)."""
        generator = torch.Generator().manual_seed(self.seed)
        sigmas = spread_sigmas(self.denoiser.sigmas.cpu(), self.num_trials, generator, self.t_min, self.t_max)
        noises = torch.randn(self.num_trials, *shape, generator=generator)
        return sigmas.to(self.host.device), noises.to(self.host.device)

    def _errors(self, latents: Tensor, undecided: Tensor, sigmas: Tensor, noises: Tensor) -> Tensor:
        """(J, n) float32 noise errors of J undecided combinations of image and class on n trials, in full batches across images."""
        image, label = undecided.nonzero(as_tuple=True)
        image = image.to(latents.device)
        evaluations = torch.arange(len(image) * len(sigmas), device=latents.device)
        at_once = self.batch_size or evaluations_at_once(latents[0, 0].numel(), latents.device)

        def evaluate(part: slice) -> Tensor:  # nothing here waits for the device
            combination, trial = evaluations[part] // len(sigmas), evaluations[part] % len(sigmas)
            x0, sigma = latents[image[combination]], sigmas[trial]
            labels = label[torch.arange(part.start, part.stop) // len(sigmas)]
            rows = {name: features.rows(labels).to(self.host.device) for name, features in self.conditioning.items()}
            estimate = self.denoiser.denoise(self.denoiser.noised(x0, noises[trial], sigma), sigma, rows)
            return noise_error(x0, estimate, sigma)

        parts = in_parts_that_fit(evaluate, len(evaluations), at_once, _EVALUATION_TOO_LARGE)
        if len(parts) > -(-len(evaluations) // at_once):  # memory ran out
            self.batch_size = len(parts[-2])
        errors = torch.cat(parts).view(len(image), len(sigmas)).cpu()
        if not errors.isfinite().all():
            raise HostError("the model's noise errors are not finite; use a wider number format (bf16 or fp32)")
        return errors


def evaluations_at_once(area: int, device: torch.device) -> int:
    """The number of evaluations that fit into the device's free memory, for latents of ``area`` elements per channel."""
    elements = _MIN_LATENT_ELEMENTS
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # PyTorch's own cache
        elements = max(elements, free // 2 // _BYTES_PER_ELEMENT)  # half, since other programs use the device too
    return max(1, min(_MAX_BATCH, elements // area))


def _aligned(errors: Tensor, counts: Tensor) -> Tensor:
    """(B, C) mean errors, comparable between classes that were evaluated on different numbers of trials.

    Means over different trials are not comparable, but differences over the same trials are: the error of a class is the
    winner's mean error plus their mean difference over the trials of the class. A class that was eliminated never has a
    smaller error than one that was eliminated later, and a class that was not a candidate has the largest.
    """
    mean = errors.sum(2) / counts.clamp(min=1)
    rows, best = torch.arange(len(errors)), best_class(errors, counts)
    common = torch.arange(errors.shape[2]) < counts[..., None]  # (B, C, P); the winner has every trial of another class
    difference = (errors - errors[rows, best][:, None]).masked_fill(~common, 0.0).sum(2) / counts.clamp(min=1)
    aligned = mean[rows, best][:, None] + difference
    worst = torch.full_like(mean[:, :1], -torch.inf)  # of the classes that were eliminated later
    for count in counts.unique().flip(0).tolist():
        group = counts == count
        aligned = torch.where(group, aligned.maximum(worst), aligned)
        worst = aligned.masked_fill(~group, -torch.inf).amax(1, keepdim=True).maximum(worst)
    return aligned


def _class_contexts(host: Host, tokens: TokenSet, template: str) -> dict[str, Features]:
    """Conditioning of each class's prompt, C rows; for many classes on the CPU, since the device may lack the memory."""
    prompts = host_templates(host, [template], tokens.vectors_per_token)
    device = host.device if len(tokens) <= _MAX_CLASSES_ON_DEVICE else torch.device("cpu")

    def encode(part: slice) -> dict[str, Features]:
        vectors = {name: v[part].to(host.device) for name, v in tokens.vectors.items()}
        first = torch.zeros(len(next(iter(vectors.values()))), dtype=torch.long)
        text = conditioning(host, {name: p.rows(first) for name, p in prompts.items()}, vectors)
        return {name: features.to(device) for name, features in text.items()}

    with torch.inference_mode(), host.session("text"):
        parts = in_parts_that_fit(encode, len(tokens), _PROMPTS_PER_BATCH, TEXT_TOO_LARGE)
    return joined(parts)
