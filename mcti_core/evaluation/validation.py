"""Look at tokens while they are trained: samples from fixed noise, and the accuracy on fixed held-out images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor

from ..classifiers.clip import ClipClassifier
from ..data.feature_cache import FeatureCache
from ..errors import ConfigError, listed
from ..hosts.base import Host
from ..prompts.syntax import parse_prompt
from ..sampling import generate
from ..tokens.normal_form import index_of
from ..tokens.token_set import TokenSet
from ..training.loop import StepInfo
from ..viz.image_grid import image_grid

__all__ = ["Validation", "check_held_out", "class_prompts"]

MAX_CLASSES = 8
"""Classes of which samples are drawn."""
_AT_ONCE, _LEAST_SIDE = 4, 128
"""Images of one batch; pixels to which smaller samples are enlarged."""


def class_prompts(prompt: str, names: Sequence[str], labels: Sequence[str] = ()) -> list[str]:
    """The prompt for each of the first eight classes in place of ``{}``; itself if there is none.

    Raises:
        TokenError: it is no prompt (``prompts.syntax.parse_prompt``).
    """
    prompts = [prompt.replace("{}", f"{{{name}}}") for name in names[:MAX_CLASSES]] if "{}" in prompt else [prompt]
    for text in prompts:
        parse_prompt(text, tuple(names), tuple(labels))
    return prompts


def check_held_out(classes: Sequence[str], labels: Sequence[str]) -> None:
    """Raise a ``ConfigError`` for held-out classes that are not among the labels in training."""
    if unknown := [name for name in classes if index_of(name, labels) is None]:
        raise ConfigError(f"the held-out images have classes that are not trained: {listed(unknown)}; take them out")


@dataclass
class Validation:
    """Called after every step, it measures and draws every few of them. The training is not changed: it has generators of its own.

    What fails is reported, once, and does not end the training.
    """

    host: Host
    every: int
    """Steps from one look to the next; the last step is always looked at."""
    prompts: Sequence[str] = ()
    """With ``{}`` for each of the first eight classes."""
    held_out: FeatureCache | None = None
    """Image features of images that are not trained on, of some of the classes."""
    size: int | None = None
    seed: int = 0
    tell: Callable[[str], object] = print
    show: Callable[[int, Image.Image], object] = lambda step, picture: None
    """Called with the step and a picture of the samples: one row per prompt, one column per class."""
    passing: tuple[type[BaseException], ...] = ()
    """Exceptions that end the training after all, such as a host's cancel."""
    images: dict[str, list[Tensor]] = field(default_factory=dict)
    """Prompt -> its images of this step, (3, H, W) in [0, 1]; empty after steps without."""
    accuracies: dict[int, float] = field(default_factory=dict)
    """Step -> share of held-out images that ``ClipClassifier`` recognises."""
    _told: bool = False

    def on_step(self, info: StepInfo) -> None:
        """To be called after every step.

        Raises:
            TrainingError: a loss was not finite.
        """
        self.images = {}
        if not self.every or (info.step % self.every and info.step != info.total):
            return
        tokens = info.tokens()
        try:
            with torch.no_grad():
                self._look(tokens, info.step)
        except self.passing:
            raise
        except Exception as error:
            if not self._told:
                self.tell(f"validation failed, the training goes on: {str(error)[:300] or type(error).__name__}")
            self._told = True

    def _look(self, tokens: TokenSet, step: int) -> None:
        if self.held_out is not None and self.held_out.features is not None:
            known = torch.tensor([index_of(name, tokens.labels) or 0 for name in self.held_out.classes])
            answers = ClipClassifier(self.host, tokens).logits(self.held_out.features[:, 0]).argmax(1)
            self.accuracies[step] = float((answers == known[self.held_out.labels]).float().mean())
        for prompt in self.prompts:
            texts = class_prompts(prompt, tokens.names, tokens.labels)
            self.images[prompt] = list(
                generate(self.host, texts, tokens, seed=self.seed, size=self.size, batch=_AT_ONCE)
            )
        if rows := list(self.images.values()):
            columns, side = max(map(len, rows)), rows[0][0].shape[-1]
            heads = tokens.labels[:columns] if columns > 1 else None
            self.show(step, image_grid(rows, list(self.images), heads, max(1, _LEAST_SIDE // side)))
