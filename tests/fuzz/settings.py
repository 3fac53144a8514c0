"""Laws of settings: of a ``TrainConfig`` and of command lines."""

from __future__ import annotations

import contextlib
import io
import json
from random import Random
from typing import Any

import torch

from mcti_core.cli.options import config_of
from mcti_core.cli.parser import _parser
from mcti_core.training.config import TrainConfig

from .mutations import NUMBERS, TEXTS, any_json

__all__ = ["Broken", "any_argument", "any_arguments", "any_config"]

_OPTIONS = [
    "--output-dir", "--model", "--clip", "--config", "--model-config", "--device", "--dtype", "--shots", "--seed",
    "--seeds", "--first-seed", "--top", "--threshold", "--json", "--batch-size", "--tokens", "--steps", "--lr",
    "--gamma", "--gamma-end", "--gradient-ratio", "--classification-only-steps", "--keep-norm",
    "--initializer-token", "--hflip", "--direction", "--pooling", "--templates", "--template", "--num-vectors",
    "--resume", "--restart", "--save-every", "--method", "--reject-unknown", "--prompt", "--num-images",
    "--num-inference-steps", "--guidance-scale", "--format", "--layout", "--select", "--labels", "--rename",
    "--output", "--output-json",
]  # fmt: skip
_TRAINING_OPTIONS = [
    "--tokens", "--steps", "--lr", "--gamma", "--gamma-end", "--gradient-ratio", "--classification-only-steps",
    "--keep-norm", "--initializer-token", "--hflip", "--direction", "--pooling", "--seed", "--steps",
    "--batch-size",
]  # fmt: skip
_WORDS = ("nan", "inf", "-1", "0.5", "1e-3", "--", "-x", "٣", "²", "1_0", " 1", "0x10", "\udcff", "eot")
_VALUES = (
    float("nan"), float("inf"), 1e308, 10**400, 10**5000, 1e-320, 1 + 2j, -0.5, 0.5, 1, 2, 8, 10, None, True, "eot",
    "cosine", ("a {}",), ["{}"], (), b"x",
)  # fmt: skip
_COUNTS = (
    "steps", "batch_size", "micro_batch_size", "lr_warmup_steps", "classification_only_steps",
    "max_classes_per_step", "eval_steps", "patience",
)  # fmt: skip


class Broken(Exception):  # noqa: N818 - of a law
    """An input did what no input may do."""


def _value(random: Random) -> Any:
    return random.choice((*_VALUES, random.choice(NUMBERS), random.random(), random.choice(TEXTS), any_json(random)))


def any_config(random: Random) -> None:
    names = list(TrainConfig.__dataclass_fields__)
    config = TrainConfig(**{random.choice(names): _value(random) for _ in range(random.choice((1, 1, 2, 5)))})
    json.dumps(config.describe())
    torch.Generator().manual_seed(config.seed)
    for template in config.templates:
        template.replace("{}", "x")
    if not all(type(getattr(config, name)) in (bool, int, float, str, tuple, type(None)) for name in names):
        raise Broken(f"taken: {config}")
    for name in _COUNTS:
        range(getattr(config, name))


def any_argument(random: Random) -> str:
    text = random.choice((*TEXTS, *map(str, NUMBERS), *_WORDS))
    return text.replace("\0", "0").replace("\ud800", "\udc80")  # what no shell gives a program


def any_arguments(random: Random) -> None:
    options = _OPTIONS
    command = random.choice(
        ("train", "add", "classify", "evaluate", "generate", "convert", "demo", "", "x", any_argument(random))
    )
    line = [command, *(any_argument(random) for _ in range(random.randrange(2)))]
    if random.random() < 0.7:
        output = "--output-dir" if random.random() < 0.6 else "--cache"
        line = [random.choice(("train", "evaluate")), "no-folder", output, "no-out"]
        options = _TRAINING_OPTIONS
    for _ in range(random.randrange(1, 5)):
        line += [random.choice(options), any_argument(random)][: random.choice((1, 2, 2, 2, 2))]
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        try:
            arguments = _parser().parse_args(line)
        except SystemExit as error:
            if error.code == 0:  # --help
                return
            raise
        if hasattr(arguments, "steps") and hasattr(arguments, "lr"):
            config = config_of(arguments)
            torch.Generator().manual_seed(config.seed)
        if not 0 <= (getattr(arguments, "threshold", None) or 0) <= 1:
            raise Broken(f"threshold {arguments.threshold}")
        for name in ("seed", "first_seed"):
            if isinstance(getattr(arguments, name, None), int):
                torch.Generator().manual_seed(getattr(arguments, name))
