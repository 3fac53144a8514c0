"""Rarely used training settings: the advanced inputs of Train MC-TI Tokens."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..mcti_core.losses import DIRECTIONS
from ..mcti_core.templates import OBJECT_TEMPLATES, STYLE_TEMPLATES
from ..mcti_core.tokens.token_set import POOLINGS
from ..mcti_core.training.config import ADAPTIVE, SCHEDULES, TrainConfig
from .types import Settings

__all__ = ["setting_inputs", "settings_of"]

_DEFAULT = TrainConfig()
_TEMPLATES = {"object": OBJECT_TEMPLATES, "style": STYLE_TEMPLATES}


def _number(name: str, least: float, most: float, **fields: Any) -> Any:
    """A numeric field of ``TrainConfig``."""
    default = getattr(_DEFAULT, name)
    kind = io.Int if isinstance(default, int) else io.Float
    return kind.Input(name, optional=True, default=default, min=least, max=most, **fields)


def setting_inputs() -> list[Any]:
    """The inputs, all optional, so that graphs saved without them use the defaults."""
    return [
        io.Combo.Input("templates", optional=True, options=[*_TEMPLATES, "own"], default="object"),
        io.String.Input("own_templates", optional=True, multiline=True, default=""),
        io.String.Input("initializer_token", optional=True, default=""),
        io.Int.Input("num_vectors", optional=True, default=1, min=1, max=16),
        io.Boolean.Input("hflip", optional=True, default=True),
        io.Combo.Input("direction", optional=True, options=list(DIRECTIONS), default=_DEFAULT.direction),
        io.Combo.Input("pooling", optional=True, options=list(POOLINGS), default=_DEFAULT.pooling),
        _number("logit_scale", 0.1, 1000.0, step=0.1),
        io.Float.Input("gamma_end", optional=True, default=0.0, min=0.0, max=100.0, step=1e-4, round=1e-6),
        io.Combo.Input("lr_schedule", optional=True, options=list(SCHEDULES), default=_DEFAULT.lr_schedule),
        _number("lr_warmup_steps", 0, 10_000),
        _number("weight_decay", 0.0, 1.0, step=1e-3, round=1e-6),
        _number("classification_only_steps", 0, 10_000),
        _number("max_classes_per_step", 1, 4096),
        _number("eval_steps", 0, 10_000),
        _number("patience", 1, 1000),
        io.Int.Input("num_samples", optional=True, default=4, min=0, max=32),
        _number("gradient_ratio", 0.01, 100.0, step=0.1, round=0.001),
        io.Boolean.Input("keep_norm", optional=True, default=False),
        io.Int.Input("validation_steps", optional=True, default=0, min=0, max=100_000),
        io.String.Input("validation_prompt", optional=True, default=""),
    ]


def settings_of(
    templates: str = "object", own_templates: str = "", initializer_token: str = "", num_vectors: int = 1, hflip: bool = True,
    num_samples: int = 4, gamma_end: float = 0.0, validation_steps: int = 0, validation_prompt: str = "", **config: Any,
) -> Settings:  # fmt: skip
    """Settings from the values of ``setting_inputs``; ``config`` contains fields of ``TrainConfig``.

    Raises:
        ConfigError: a value that is not allowed.
    """
    prompts = _TEMPLATES.get(templates) or tuple(filter(None, map(str.strip, own_templates.splitlines())))
    gamma = 1.0 if gamma_end else ADAPTIVE  # which the training node replaces by its own
    settings = TrainConfig(templates=prompts, gamma=gamma, gamma_end=gamma_end or None, **config)
    word, prompt = initializer_token.strip(), validation_prompt.strip()
    return Settings(settings, num_vectors, word, hflip, num_samples, validation_steps, prompt)
