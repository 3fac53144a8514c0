"""The settings of a training."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real

from ..errors import ConfigError, TokenError
from ..files.limits import check_counts
from ..losses import DIRECTIONS
from ..templates import OBJECT_TEMPLATES
from ..tokens.token_set import POOLINGS

__all__ = ["ADAPTIVE", "TrainConfig"]

ADAPTIVE = "auto"

SCHEDULES = ("constant", "cosine")
_KINDS: dict[str, tuple[type, str]] = {
    "int": (Integral, "a whole number"),
    "float": (Real, "a number"),
    "str": (str, "a word"),
    "bool": (bool, "true or false"),
}
_MOST = 2**64
"""No seed can be larger, and no other number has to be."""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training. The defaults were chosen by measurement (docs/results.md)."""

    steps: int = 300
    """Optimizer steps for all classes together."""
    batch: int = 8
    """Images a step through the denoiser."""
    micro_batch: int = 0
    """Most images through the denoiser at once: less memory, the same steps. 0 takes the whole batch."""
    gradient_checkpointing: bool = False
    """Keep less of denoiser and text encoders for backward and compute it again there: much less memory, half as much time
    again."""
    lr: float = 5e-3
    lr_schedule: str = "cosine"
    """``"constant"``, or ``"cosine"`` from ``lr`` to zero."""
    lr_warmup: int = 10
    """Steps over which the learning rate rises to ``lr``."""
    weight_decay: float = 1e-2
    keep_norm: bool = False
    """Bring every vector back to the vocabulary's median length after each step."""
    reconstruction: float = 1.0
    """Weight of L_ldm; 0 trains on the classification term alone and never calls the denoiser."""
    gamma: float | str = ADAPTIVE
    """Weight of L_cls; 0 is plain textual inversion. ``"auto"`` sets it at every step by the terms' gradients, since a number
    that suits one checkpoint says little about another; the paper's is 1."""
    gradient_ratio: float = 0.7
    """With gamma ``"auto"``: how hard L_cls pulls on the tokens beside the reconstruction term."""
    gamma_end: float | None = None
    """Where gamma decays to, exponentially; None keeps it constant. The released arguments name 1e-4."""
    direction: str = "image_to_text"
    """Of the classification term: ``"text_to_image"`` as released, ``"image_to_text"`` or ``"symmetric"``."""
    logit_scale: float = 10.0
    pooling: str = "eot"
    """Where the text feature is read: ``"eot"`` or ``"token"``. Kept with the tokens and used again in classifying."""
    templates: tuple[str, ...] = OBJECT_TEMPLATES
    warm_start: int = 0
    """Steps on the classification term alone before the first; they cost no denoiser call."""
    text_classes: int = 64
    """Most classes whose prompts are encoded in one step; where there are more, a random part of them."""
    probe_every: int = 0
    """Steps between looks at a fixed probe of (image, noise level, noise); 0 never looks."""
    patience: int = 5
    """Looks without improvement after which training stops."""
    seed: int = 0

    def __post_init__(self) -> None:
        self._refuse_other_kinds()
        object.__setattr__(self, "templates", tuple(self.templates))
        positive = ("steps", "batch", "text_classes", "patience")
        not_negative = (
            "micro_batch",
            "lr_warmup",
            "weight_decay",
            "reconstruction",
            *(() if self.adaptive else ("gamma",)),
            "warm_start",
            "probe_every",
            "seed",
        )
        for name in positive:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in not_negative:
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0 < self.gradient_ratio < math.inf:
            raise ConfigError(f"gradient_ratio must be above 0, got {self.gradient_ratio}")
        if self.adaptive and (self.reconstruction == 0 or self.gamma_end is not None):
            raise ConfigError(
                "gamma 'auto' follows the gradients of both terms: reconstruction must be above 0, and gamma_end None; or give gamma a number"
            )
        if not (0 < self.lr < math.inf and 0 < self.logit_scale < math.inf):
            raise ConfigError(f"lr and logit_scale must be above 0, got {self.lr} and {self.logit_scale}")
        if self.gamma_end is not None and not 0 < self.gamma_end < math.inf:
            raise ConfigError(f"gamma_end must be above 0 or None, got {self.gamma_end}")
        for name, allowed in (("direction", DIRECTIONS), ("pooling", POOLINGS), ("lr_schedule", SCHEDULES)):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name} {getattr(self, name)!r} is not one of {', '.join(allowed)}")
        if not self.templates:
            raise ConfigError("templates must hold at least one prompt")
        try:
            check_counts((), self.templates)
        except TokenError as error:  # not as late as when the tokens are made
            raise ConfigError(str(error)) from error
        if self.reconstruction == 0 and self.gamma == 0:
            raise ConfigError("reconstruction and gamma are both 0: nothing would be learned")
        if self.warm_start and self.gamma == 0:
            raise ConfigError("a warm start trains on the classification term; with gamma 0 there is none")

    @property
    def adaptive(self) -> bool:
        """Whether gamma follows the gradients."""
        return isinstance(self.gamma, str) and self.gamma == ADAPTIVE

    def _refuse_other_kinds(self) -> None:
        """What a form, a file or a program gives may be anything."""
        for field in fields(self):
            value, kind = getattr(self, field.name), str(field.type).removesuffix(" | None").removesuffix(" | str")
            if field.name == "gamma" and self.adaptive:
                continue
            if kind not in _KINDS or (value is None and str(field.type).endswith(" | None")):
                continue
            if isinstance(value, int) and abs(value) >= _MOST:
                raise ConfigError(f"{field.name} must be below 2**64")
            if not isinstance(value, _KINDS[kind][0]) or (isinstance(value, bool) and kind != "bool"):
                wanted = _KINDS[kind][1] + (f" or {ADAPTIVE!r}" if field.name == "gamma" else "")
                raise ConfigError(f"{field.name} must be {wanted}, got {value!r:.80}")
        if not isinstance(self.templates, (tuple, list)) or not all(isinstance(text, str) for text in self.templates):
            raise ConfigError(
                f"templates must be a list of prompts, got a {type(self.templates).__name__} of something else"
            )

    def describe(self) -> dict[str, object]:
        """All settings that count as plain values, for the token file."""
        values = asdict(self)
        if not self.adaptive:
            values.pop("gradient_ratio")
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
