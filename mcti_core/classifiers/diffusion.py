"""Classify by the diffusion model itself: the class under whose prompt the noise is predicted best."""

from __future__ import annotations

import torch
from torch import Tensor

from ..diffusion import noise_error, spread_sigmas
from ..errors import ConfigError
from ..hosts.base import Host, TextFeatures
from ..prompts import encode_prompts, template_prompts
from ..tokens import TokenSet
from .base import Scores
from .stopping import race

__all__ = ["DiffusionClassifier"]

_ENCODED, _TOGETHER = 32, 256
"""Images through the autoencoder at once; images whose evaluations share batches, and whose errors are kept."""
_AT_ONCE, _LATENT_PIXELS = 128, 4 * 64 * 64
"""Most evaluations at once: four where images are of 512 x 512 pixels, with which SD 1.5 stays below 4 GB."""


class DiffusionClassifier:
    """argmin_c of the mean noise error over pairs of noise level and noise that all classes share.

    Sharing the pairs makes the differences between classes far less noisy than the errors themselves. A class is stopped
    as soon as it can hardly win any more (``stopping.py``), so that most evaluations go to the few that are hard to tell
    apart, and an image is done when one class is left.

    Args:
        host: with a denoiser and a codec.
        tokens: the classes.
        pairs: P, the most pairs a class is tried on.
        error: level of the test, about the probability that an image's answer is not that of all classes on all pairs.
            0 stops nobody; above 0.5 is not allowed.
        template: the prompt; the tokens' first by default.
        low, high: fractions of the time steps between which noise levels are taken, spread evenly.
        scale: logits are -scale * mean error.
        batch: denoiser evaluations at once; by default 128, or fewer where latents are so large that 4 GB would not do.
        seed: of the shared pairs.

    Raises:
        ConfigError: ``pairs`` or ``batch`` below 1, ``error`` outside [0, 0.5].

    References:
        Li et al., "Your Diffusion Model is Secretly a Zero-Shot Classifier", ICCV 2023, arXiv 2303.16203.
    """

    def __init__(
        self, host: Host, tokens: TokenSet, *, pairs: int = 64, error: float = 0.1, template: str | None = None,
        low: float = 0.1, high: float = 0.7, scale: float = 100.0, batch: int | None = None, seed: int = 0,
    ):  # fmt: skip
        if pairs < 1 or (batch is not None and batch < 1):
            raise ConfigError(f"pairs and batch must be at least 1, got {pairs} and {batch}")
        if not 0 <= error <= 0.5:
            raise ConfigError(f"error is a probability from 0 (stop no class early) to 0.5, got {error}")
        self.host, self.labels = host, tokens.labels
        self.denoiser, self.codec = host.need_denoiser(), host.need_codec()
        self.pairs, self.error = pairs, error
        self.scale, self.batch, self.seed = scale, batch, seed
        self.low, self.high = low, high
        self.temperature, self.threshold = 1.0, 0.0
        self.text = _class_contexts(host, tokens, template or tokens.templates[0])

    def score(self, images: Tensor, candidates: Tensor | None = None) -> Scores:
        """Scores of any number of images (B, 3, H, W); ``candidates`` (B, C) bool leaves classes out from the start."""
        with torch.inference_mode(), self.host.session("codec"):
            latents = [self.codec.encode(part.to(self.host.device)) for part in images.split(_ENCODED)]
        return self.score_latents(torch.cat(latents), candidates)

    @torch.inference_mode()
    def score_latents(self, latents: Tensor, candidates: Tensor | None = None) -> Scores:
        """Scores of scaled latents (B, c, h, w)."""
        if candidates is None:
            candidates = torch.ones(len(latents), len(self.labels), dtype=torch.bool)
        logits, evaluations = [], []
        for part, tried in zip(latents.split(_TOGETHER), candidates.split(_TOGETHER), strict=True):
            errors, seen = self.compare(part, tried)
            logits.append(-self.scale * _aligned(errors, seen))
            evaluations.append(seen.sum(1))
        return Scores(torch.cat(logits), torch.cat(evaluations))

    @torch.inference_mode()
    def compare(self, latents: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """Noise errors (B, C, P) of each candidate on its first pairs, and on how many of them (B, C).

        All images share batches, and the errors of all are kept: give a few hundred images at most.
        """
        clean = latents.to(self.host.device, torch.float32)
        sigmas, noises = self._pairs(latents.shape[1:])

        def evaluate(going: Tensor, start: int, end: int) -> Tensor:
            return self._errors(clean, going, sigmas[start:end], noises[start:end])

        with self.host.session("denoiser"):
            return race(evaluate, candidates, self.pairs, self.error)

    def _pairs(self, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """The (sigma, noise) pairs that all images and classes share: (P,), (P, c, h, w)."""
        generator = torch.Generator().manual_seed(self.seed)
        sigmas = spread_sigmas(self.denoiser.sigmas.cpu(), self.pairs, generator, self.low, self.high)
        noises = torch.randn(self.pairs, *shape, generator=generator)
        return sigmas.to(self.host.device), noises.to(self.host.device)

    def _errors(self, latents: Tensor, going: Tensor, sigmas: Tensor, noises: Tensor) -> Tensor:
        """(J, n) float32 noise errors on n pairs of the J (image, class) that go on, in full batches across images."""
        image, label = (index.to(latents.device) for index in going.nonzero(as_tuple=True))
        jobs = torch.arange(len(image) * len(sigmas), device=latents.device)
        errors, at_once = torch.empty(len(jobs), device=latents.device), self.batch or _usual_batch(latents)
        for part, place in zip(jobs.split(at_once), errors.split(at_once), strict=True):  # none waits for the device
            which, pair = part // len(sigmas), part % len(sigmas)
            clean, sigma = latents[image[which]], sigmas[pair]
            text = {name: features.rows(label[which]) for name, features in self.text.items()}
            estimate = self.denoiser.denoise(self.denoiser.noised(clean, noises[pair], sigma), sigma, text)
            place.copy_(noise_error(clean, estimate, sigma))
        return errors.view(len(image), len(sigmas)).cpu()


def _usual_batch(latents: Tensor) -> int:
    """Large latents keep a GPU busy a few at a time, and more of them would only take more memory."""
    return max(1, min(_AT_ONCE, _LATENT_PIXELS // (latents.shape[-1] * latents.shape[-2])))


def _aligned(errors: Tensor, seen: Tensor) -> Tensor:
    """(B, C) mean errors in which classes that were stopped early keep their distance from the winner over their pairs.

    Mean errors over different pairs cannot be compared, but distances over the same pairs can. No class that was stopped
    stands better than one that went on, and classes that were never tried stand as far off as the worst.

    Args:
        errors: (B, C, P).
        seen: (B, C) on how many first pairs each class was tried; the winner is the best of those tried on the most.
    """
    mean, count = errors.sum(2) / seen.clamp(min=1), seen[..., None]
    winner = mean.masked_fill(seen < seen.amax(1, keepdim=True), torch.inf).argmin(1)  # (B,)
    rows = torch.arange(len(errors))
    both = torch.arange(errors.shape[2]) < count  # (B, C, P) the winner saw every pair that another class saw
    apart = (errors - errors[rows, winner][:, None]).masked_fill(~both, 0.0).sum(2) / seen.clamp(min=1)
    aligned = mean[rows, winner][:, None] + apart
    worst = torch.full_like(mean[:, :1], -torch.inf)  # of those that went on longer
    for pairs in seen.unique().flip(0).tolist():
        here = seen == pairs
        aligned = torch.where(here, aligned.maximum(worst), aligned)
        worst = aligned.masked_fill(~here, -torch.inf).amax(1, keepdim=True).maximum(worst)
    return aligned


def _class_contexts(host: Host, tokens: TokenSet, template: str) -> dict[str, TextFeatures]:
    prompts = {
        name: template_prompts(encoder, [template], tokens.vectors_per_token) for name, encoder in host.text.items()
    }
    every = torch.zeros(len(tokens), dtype=torch.long)
    with torch.inference_mode(), host.session("text"):
        return encode_prompts(
            host,
            {name: p.rows(every) for name, p in prompts.items()},
            {name: v.to(host.device) for name, v in tokens.vectors.items()},
        )
