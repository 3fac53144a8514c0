"""Draw samples from fixed noise, and measure held-out accuracy, during training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from ..classifiers.clip import ClipClassifier
from ..data.feature_cache import FeatureCache
from ..hosts.base import Host
from ..prompts.syntax import parse_prompt
from ..sampling import generate
from ..tokens.names import index_of
from ..tokens.token_set import TokenSet
from ..training.loop import StepInfo
from ..viz.image_grid import image_grid

__all__ = ["Validation", "class_prompts"]

_MAX_CLASSES, _BATCH = 8, 4
_MIN_SIDE = 128
"""Minimum side of a sample in a picture, in pixels; smaller samples are enlarged."""


def class_prompts(prompt: str, names: Sequence[str], labels: Sequence[str] = ()) -> list[str]:
    """Insert each of the first eight classes for ``{}``; a prompt without ``{}`` is returned as it is.

    Raises:
        TokenError: not a valid prompt (``prompts.syntax.parse_prompt``).
    """
    prompts = [prompt.replace("{}", f"{{{name}}}") for name in names[:_MAX_CLASSES]] if "{}" in prompt else [prompt]
    for text in prompts:
        parse_prompt(text, tuple(names), tuple(labels))
    return prompts


@dataclass
class Validation:
    """Draws and measures every few steps. It has random generators of its own, so training does not change.

    A failure is reported once and does not end training.
    """

    host: Host
    every: int
    """Number of steps between validations; the last step is always validated. 0 turns validation off."""
    prompts: Sequence[str] = ()
    """Prompts to draw; ``{}`` stands for each of the first eight classes."""
    held_out: FeatureCache | None = None
    """Image features of held-out images; their classes are a subset of those in training."""
    size: int | None = None
    """Side of the samples in pixels; by default the host's own."""
    seed: int = 0
    """Seed of the samples' noise."""
    log: Callable[[str], object] = print
    """Called with a message when validation fails."""
    show: Callable[[int, Image.Image], object] = lambda step, picture: None
    """Called with the step and a picture of the samples: one row per prompt, one column per class."""
    passing: tuple[type[BaseException], ...] = ()
    """Exceptions that do end training, such as ComfyUI's cancel."""
    images: dict[str, list[Tensor]] = field(default_factory=dict)
    """Prompt -> samples (3, H, W) in [0, 1] of the current step; empty if it was not validated."""
    accuracies: dict[int, float] = field(default_factory=dict)
    """Step -> accuracy of ``ClipClassifier`` on the held-out images, in [0, 1]."""
    _failed: bool = False

    def on_step(self, info: StepInfo) -> None:
        """Validate if the step is due. Call it after each step.

        Raises:
            TrainingError: a loss is not finite.
        """
        self.images = {}
        if not self.every or (info.step % self.every and info.step != info.total):
            return
        tokens = info.tokens()
        try:
            with torch.no_grad():
                self._validate(tokens, info.step)
        except self.passing:
            raise
        except Exception as error:
            if not self._failed:
                self.log(f"validation failed, training continues: {str(error)[:300] or type(error).__name__}")
            self._failed = True

    def _validate(self, tokens: TokenSet, step: int) -> None:
        if self.held_out is not None and self.held_out.features is not None:
            known = torch.tensor([index_of(name, tokens.labels) or 0 for name in self.held_out.classes])
            answers = ClipClassifier(self.host, tokens).logits(self.held_out.features[:, 0]).argmax(1)
            self.accuracies[step] = float((answers == known[self.held_out.labels]).float().mean())
        for prompt in self.prompts:
            texts = class_prompts(prompt, tokens.names, tokens.labels)
            samples = generate(self.host, texts, tokens, seed=self.seed, size=self.size, batch_size=_BATCH)
            self.images[prompt] = list(samples)
        if rows := list(self.images.values()):
            columns, side = max(map(len, rows)), rows[0][0].shape[-1]
            heads = tokens.labels[:columns] if columns > 1 else None
            self.show(step, image_grid(rows, list(self.images), heads, max(1, _MIN_SIDE // side)))
