"""Classify by the diffusion model itself: the class under whose prompt the noise is predicted best."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..diffusion import noise_error, stratified_sigmas
from ..errors import ConfigError
from ..hosts.base import Host, TextFeatures
from ..prompts import encode_prompts, template_prompts
from ..tokens import TokenSet
from .base import Scores

__all__ = ["DEFAULT_STAGES", "DiffusionClassifier"]

DEFAULT_STAGES = ((6, 4), (12, 2), (24, 1))


class DiffusionClassifier:
    """argmin_c of the mean noise error over pairs of noise level and noise that all classes share.

    Sharing the pairs makes the differences between classes far less noisy than the errors themselves. Classes are
    eliminated in stages: all are tried on the first few pairs, and only the best go on to further ones.

    Args:
        host: with a denoiser and a codec.
        tokens: the classes.
        stages: ``(pairs, keep)``: after so many pairs in all, keep so many classes; ascending and descending.
            ``((32, 1),)`` tries every class on all 32.
        template: the prompt; the tokens' first by default.
        low, high: fractions of the time steps between which noise levels are taken, one from each equal slice.
        scale: logits are -scale * mean error.
        batch: denoiser evaluations at once.
        seed: of the shared pairs.

    References:
        Li et al., "Your Diffusion Model is Secretly a Zero-Shot Classifier", ICCV 2023, arXiv 2303.16203.
    """

    def __init__(
        self, host: Host, tokens: TokenSet, *, stages: Sequence[tuple[int, int]] = DEFAULT_STAGES, template: str | None = None,
        low: float = 0.1, high: float = 0.7, scale: float = 100.0, batch: int = 128, seed: int = 0,
    ):  # fmt: skip
        self.stages = _checked_stages(stages, len(tokens))
        self.host, self.labels = host, tokens.labels
        self.denoiser, self.codec = host.need_denoiser(), host.need_codec()
        self.scale, self.batch, self.seed = scale, batch, seed
        self.low, self.high = low, high
        self.temperature, self.threshold = 1.0, 0.0
        self.text = _class_contexts(host, tokens, template or tokens.templates[0])

    def score(self, images: Tensor, candidates: Tensor | None = None) -> Scores:
        """Scores of images (B, 3, H, W); ``candidates`` (B, C) bool leaves classes out from the start."""
        with torch.inference_mode(), self.host.session("codec"):
            latents = self.codec.encode(images.to(self.host.device))
        return self.score_latents(latents, candidates)

    @torch.inference_mode()
    def score_latents(self, latents: Tensor, candidates: Tensor | None = None) -> Scores:
        """Scores of scaled latents (B, c, h, w)."""
        alive = (
            torch.ones(len(latents), len(self.labels), dtype=torch.bool) if candidates is None else candidates.clone()
        )
        sigmas, noises = self._pairs(latents.shape[1:])
        total = torch.zeros(alive.shape)  # (B, C) sums of errors, float32
        snapshots: list[tuple[Tensor, Tensor]] = []  # (mean errors, who was alive) at each stage
        evaluations, done = torch.zeros(len(latents), dtype=torch.long), 0
        for pairs, keep in self.stages:
            with self.host.session("denoiser"):
                total += self._errors(latents.float(), alive, sigmas[done:pairs], noises[done:pairs])
            evaluations += alive.sum(1) * (pairs - done)
            done = pairs
            snapshots.append((total / done, alive.clone()))
            ranked = (total / done).masked_fill(~alive, torch.inf).argsort(1)[:, :keep]
            alive = torch.zeros_like(alive).scatter_(1, ranked, True) & alive
        return Scores(-self.scale * _aligned(snapshots), evaluations)

    def _pairs(self, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """The (sigma, noise) pairs that all images and classes share: (P,), (P, c, h, w)."""
        generator = torch.Generator().manual_seed(self.seed)
        count = self.stages[-1][0]
        sigmas = stratified_sigmas(self.denoiser.sigmas.cpu(), count, generator, self.low, self.high)
        return sigmas.to(self.host.device), torch.randn(count, *shape, generator=generator).to(self.host.device)

    def _errors(self, latents: Tensor, alive: Tensor, sigmas: Tensor, noises: Tensor) -> Tensor:
        """(B, C) sums over the pairs of the noise errors of every class that is alive, in full batches."""
        jobs = torch.cartesian_prod(torch.arange(int(alive.sum())), torch.arange(len(sigmas))).view(-1, 2)
        image, label = alive.nonzero(as_tuple=True)
        sums = torch.zeros(len(image))
        for part in jobs.split(self.batch):
            which, pair = part[:, 0], part[:, 1].to(latents.device)
            clean, sigma = latents[image[which].to(latents.device)], sigmas[pair]
            text = {name: features.rows(label[which].to(latents.device)) for name, features in self.text.items()}
            estimate = self.denoiser.denoise(self.denoiser.noised(clean, noises[pair], sigma), sigma, text)
            sums.index_add_(0, which, noise_error(clean, estimate, sigma).cpu())
        return torch.zeros(alive.shape).masked_scatter_(alive, sums)


def _aligned(snapshots: list[tuple[Tensor, Tensor]]) -> Tensor:
    """(B, C) mean errors in which classes that left early keep their distance from the winner at that time.

    Mean errors over different pairs cannot be compared, but distances over the same pairs can. No class that left stands
    better than one that stayed, and classes that were never tried stand as far off as the worst.
    """
    final, alive = snapshots[-1]
    winner = final.masked_fill(~alive, torch.inf).argmin(1, keepdim=True)
    errors = final.masked_fill(~alive, -torch.inf)
    for mean, tried in reversed(snapshots[:-1]):
        apart = final.gather(1, winner) + mean - mean.gather(1, winner)
        left = tried & errors.isneginf()
        errors = torch.where(left, apart.maximum(errors.amax(1, keepdim=True)), errors)
    return torch.where(errors.isneginf(), errors.amax(1, keepdim=True), errors)


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


def _checked_stages(stages: Sequence[tuple[int, int]], classes: int) -> tuple[tuple[int, int], ...]:
    pairs, keeps = [p for p, _ in stages], [k for _, k in stages]
    if (
        not stages
        or pairs != sorted(set(pairs))
        or pairs[0] < 1
        or keeps != sorted(keeps, reverse=True)
        or keeps[-1] != 1
    ):
        raise ConfigError(
            f"stages must be (pairs, keep) with rising pairs and falling keep, the last keeping 1, got {list(stages)}"
        )
    return tuple((p, min(k, classes)) for p, k in stages)
