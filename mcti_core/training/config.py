"""Settings of a training."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from numbers import Integral, Real

from ..errors import ConfigError, TokenError
from ..files.limits import check_counts
from ..losses import DIRECTIONS
from ..templates import OBJECT_TEMPLATES
from ..tokens.token_set import POOLINGS

__all__ = ["ADAPTIVE", "SCHEDULES", "TrainConfig"]

ADAPTIVE = "auto"

SCHEDULES = ("constant", "cosine")
_KINDS: dict[str, tuple[type, str]] = {
    "int": (Integral, "a whole number"), "float": (Real, "a number"), "str": (str, "a word"), "bool": (bool, "true or false"),
}  # fmt: skip
_AT_LEAST_1 = ("steps", "batch_size", "max_classes_per_step", "patience")
_NOT_NEGATIVE = (
    "micro_batch_size", "lr_warmup_steps", "weight_decay", "reconstruction_weight", "gamma", "classification_only_steps",
    "eval_steps", "seed",
)  # fmt: skip
_ABOVE_0 = ("lr", "logit_scale", "gradient_ratio", "gamma_end")
_CHOICES = {"direction": DIRECTIONS, "pooling": POOLINGS, "lr_schedule": SCHEDULES}
_MAX_NUMBER = 2**64
"""Upper bound of all numbers, which seeds have in PyTorch."""
_MAX_LR, _MAX_DECAY = 1e30, 1e6
"""The optimizer's float32 numbers overflow above their product times 300."""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training. The defaults were chosen by measurement (docs/results.md)."""

    steps: int = 300
    """Number of optimizer steps, for all classes together."""
    batch_size: int = 8
    """Images per step."""
    micro_batch_size: int = 0
    """Images per pass of the denoiser: fewer take less memory, with the same result up to rounding. 0 for the whole batch."""
    gradient_checkpointing: bool = False
    """Recompute activations of denoiser and text encoders in the backward pass: takes much less memory, and about 1.5 times as
    long."""
    lr: float = 5e-3
    lr_schedule: str = "cosine"
    """``"constant"``, or ``"cosine"`` from ``lr`` to zero."""
    lr_warmup_steps: int = 10
    """Steps over which the learning rate rises to ``lr``."""
    weight_decay: float = 1e-2
    keep_norm: bool = False
    """Rescale every vector to the vocabulary's median norm after each step."""
    reconstruction_weight: float = 1.0
    """Weight of L_ldm; 0 trains with the classification term only, without the denoiser."""
    gamma: float | str = ADAPTIVE
    """Weight of L_cls; 0 is plain textual inversion. ``"auto"`` chooses it at every step from the terms' gradients, since a
    number that suits one checkpoint rarely suits another. The paper uses 1."""
    gradient_ratio: float = 0.7
    """With gamma ``"auto"``: norm of gamma times the gradient of L_cls, relative to that of L_ldm, in moving averages; less once
    the classes are separated (``adaptive_gamma.py``)."""
    gamma_end: float | None = None
    """Final value of gamma, which decays exponentially; None for a constant gamma. The released code's argument is 1e-4."""
    direction: str = "image_to_text"
    """Direction of the classification term: ``"text_to_image"`` as in the released code, ``"image_to_text"`` or ``"symmetric"``."""
    logit_scale: float = 10.0
    pooling: str = "eot"
    """Position of the text feature: ``"eot"`` or ``"token"``. Saved with the tokens, and used in classifying."""
    templates: tuple[str, ...] = OBJECT_TEMPLATES
    classification_only_steps: int = 0
    """Number of additional first steps with the classification term only, without the denoiser."""
    max_classes_per_step: int = 64
    """Number of classes in the classification term of a step: those of the batch, and random other ones up to this number."""
    eval_steps: int = 0
    """Number of steps between evaluations of the loss on fixed images, noise levels and noises; 0 for none."""
    patience: int = 5
    """Number of these evaluations without improvement after which training stops."""
    seed: int = 0

    def __post_init__(self) -> None:
        self._refuse_other_kinds()
        object.__setattr__(self, "templates", tuple(self.templates))
        for name, value in vars(self).items():
            if name in _AT_LEAST_1 and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
            if name in _NOT_NEGATIVE and value != ADAPTIVE and not 0 <= value < math.inf:
                raise ConfigError(f"{name} must not be negative, got {value}")
            if name in _ABOVE_0 and value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name} must be above 0, got {value}")
            if name in _CHOICES and value not in _CHOICES[name]:
                raise ConfigError(f"{name} {value!r} is not one of {', '.join(_CHOICES[name])}")
        if self.lr > _MAX_LR or self.weight_decay > _MAX_DECAY:  # the optimizer computes in float32
            raise ConfigError(
                f"lr must be at most {_MAX_LR:g} and weight_decay at most {_MAX_DECAY:g}, got {self.lr} and {self.weight_decay}"
            )
        if not self.templates:
            raise ConfigError("templates must contain at least one prompt")
        try:
            check_counts((), self.templates)
        except TokenError as error:  # now rather than when the tokens are created
            raise ConfigError(str(error)) from error
        if self.adaptive and self.reconstruction_weight == 0:
            raise ConfigError("gamma 'auto' needs L_ldm; set reconstruction_weight above 0, or gamma to a number")
        if self.adaptive and self.gamma_end is not None:
            raise ConfigError(
                "gamma_end cannot be used with an automatic gamma; set gamma to a number from 0 up, or leave gamma_end out (0 in ComfyUI)"
            )
        if self.reconstruction_weight == 0 and self.gamma == 0:
            raise ConfigError("reconstruction_weight and gamma are both 0: nothing would be learned")
        if self.classification_only_steps and self.gamma == 0:
            raise ConfigError("classification_only_steps is above 0, but with gamma 0 there is no classification term")

    @property
    def adaptive(self) -> bool:
        """Whether gamma is chosen from the gradients."""
        return isinstance(self.gamma, str) and self.gamma == ADAPTIVE

    def _refuse_other_kinds(self) -> None:
        """Check types, since values may come from a form or a file."""
        for field in fields(self):
            value, kind = getattr(self, field.name), str(field.type).removesuffix(" | None").removesuffix(" | str")
            optional = (value is None and str(field.type).endswith(" | None")) or (
                field.name == "gamma" and self.adaptive
            )
            if kind not in _KINDS or optional:
                continue
            if isinstance(value, int) and abs(value) >= _MAX_NUMBER:
                raise ConfigError(f"{field.name} must be below 2**64")
            if not isinstance(value, _KINDS[kind][0]) or (isinstance(value, bool) and kind != "bool"):
                wanted = _KINDS[kind][1] + (f" or {ADAPTIVE!r}" if field.name == "gamma" else "")
                raise ConfigError(f"{field.name} must be {wanted}, got {value!r:.80}")
        if not isinstance(self.templates, (tuple, list)) or not all(isinstance(text, str) for text in self.templates):
            raise ConfigError(
                f"templates must be a list of texts, got a {type(self.templates).__name__}: {self.templates!r:.80}"
            )

    def describe(self) -> dict[str, object]:
        """The settings as plain values, for the token file."""
        values = asdict(self)
        if not self.adaptive:
            values.pop("gradient_ratio")
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
