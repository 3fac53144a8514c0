"""One training step: draw a batch, compute both terms of the loss, and update the vectors."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from ..data.feature_cache import FeatureCache
from ..distributed import DistributedContext
from ..hosts.base import Host
from ..prompts.splicing import host_templates
from ..tokens.token_set import TokenSet
from .caption_prompts import CaptionPrompts
from .config import TrainConfig
from .history import gradients
from .objective import batch_classification_loss, encode_classes, reconstruction_loss
from .saved_tensors import saved_tensors_verified
from .schedules import gamma_at, learning_rate
from .state import Progress
from .vector_norms import rescale_, vocabulary_norm

__all__ = ["TrainStep"]

_VERIFY_EVERY = 100
"""Number of steps between checks of the gradients, for hosts that move weights."""


class TrainStep:
    """Takes the steps of one training. Called with the number of a step, it changes ``progress``.

    A step does not wait for the device, so the next batch is drawn while the device works. (ComfyUI's SDXL waits: it
    copies the image size from the CPU in each call.)

    Args:
        active: (A,) int64, ascending: the classes in training.
        progress: the state before the first step of this run.
    """

    def __init__(
        self, host: Host, cache: FeatureCache, tokens: TokenSet, active: Tensor, config: TrainConfig, progress: Progress,
        processes: DistributedContext,
    ):  # fmt: skip
        self.host, self.cache, self.active, self.config = host, cache, active, config
        self.progress, self.processes = progress, processes
        self.first_step = len(progress.history)
        self.templates = host_templates(host, config.templates, tokens.vectors_per_token)
        """Encoder -> all prompt templates."""
        self.captions: CaptionPrompts | None = None
        """Prompts of the images' own captions, which replace the templates in L_ldm."""
        if config.reconstruction_weight and cache.captions:
            self.captions = CaptionPrompts(host, cache.captions, config.templates, tokens.vectors_per_token)
        self.target_norms: dict[str, float] = {}
        """Encoder -> norm of its vectors; empty if norms are free."""
        if config.keep_norm:
            self.target_norms = {name: vocabulary_norm(encoder, host.device) for name, encoder in host.text.items()}

    def __call__(self, step: int) -> None:
        """Take one optimizer step on L = L_ldm + gamma * L_cls."""
        host, cache, config, progress = self.host, self.cache, self.config, self.progress
        vectors, (generator, classification_generator) = progress.vectors, progress.generators
        for group in progress.optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        images = next(progress.batches)  # (B,) indices
        labels = cache.labels[images]
        reconstructs = bool(config.reconstruction_weight) and step >= config.classification_only_steps
        share = self.processes.share(len(images) if reconstructs else 0)  # this process's rows of the batch
        # captions are encoded separately
        conditioning_classes = labels[share if self.captions is None else slice(0)].unique()
        # an adaptive gamma is chosen in the backward pass; here only whether it is 0 counts
        gamma = 1.0 if config.adaptive else gamma_at(config, step)
        classes = self._classes(labels, classification_generator) if gamma else conditioning_classes
        prompts_per_part = (config.micro_batch_size or config.batch_size) if config.gradient_checkpointing else 0

        progress.optimizer.zero_grad()
        with saved_tensors_verified() if self._verifies(step) else nullcontext():
            prompts = encode_classes(
                host, self.templates, vectors, self.active, classes, conditioning_classes, config.pooling, generator,
                prompts_per_part,
            )  # fmt: skip
            terms: dict[str, Tensor] = {}  # this process's shares of the two means
            if share.start < share.stop:
                if self.captions is None:
                    conditioning = prompts.conditioning_of(labels[share])
                else:
                    rows = torch.searchsorted(self.active, labels)
                    conditioning = self.captions.encode(images, share, rows, vectors, generator, prompts_per_part)
                errors = reconstruction_loss(
                    host, cache, images, conditioning, generator, micro_batch_size=config.micro_batch_size, share=share
                )
                terms["reconstruction"] = errors.sum() / len(images)
            if gamma:
                losses = batch_classification_loss(host, cache, prompts, config, classification_generator)
                terms["classification"] = losses.mean() / self.processes.count
            self._backward(terms, gamma)
        progress.history.add(terms)
        progress.optimizer.step()
        rescale_(vectors, self.target_norms)

    def _backward(self, terms: dict[str, Tensor], gamma: float) -> None:
        """Set the vectors' gradients, and make ``terms`` the sums over all processes."""
        progress, reconstruction_weight = self.progress, self.config.reconstruction_weight
        if progress.adaptive_gamma is not None and "reconstruction" in terms:
            progress.adaptive_gamma.backward(terms, reconstruction_weight, progress.vectors, self.processes)
            return
        weights = {"reconstruction": reconstruction_weight, "classification": gamma}
        terms["loss"] = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        terms["loss"].backward(inputs=list(progress.vectors.values()))  # the host's weights may not be frozen
        self.processes.all_reduce_sum([*gradients(progress.vectors), *terms.values()])

    def _classes(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """(S,) ascending: the batch's classes, and random other ones up to ``max_classes_per_step`` in total."""
        in_batch = labels.unique()
        others = self.active[~torch.isin(self.active, in_batch)]
        room = max(0, self.config.max_classes_per_step - len(in_batch))
        return torch.cat([in_batch, others[torch.randperm(len(others), generator=generator)[:room]]]).sort().values

    def _verifies(self, step: int) -> bool:
        return self.host.moves_weights and (
            step == self.config.classification_only_steps or (step - self.first_step) % _VERIFY_EVERY == 0
        )
