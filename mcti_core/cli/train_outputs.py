"""What ``mcti train`` and ``mcti add`` write."""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ..classifiers.calibration import calibrate
from ..classifiers.clip import ClipClassifier
from ..errors import ConfigError, MCTIError
from ..files.provenance import is_marked, write_png
from ..files.writing import check_writable, refuse_foreign
from ..hosts.base import Host
from ..tokens.earlier_sets import stale_embeddings
from ..tokens.io import SUFFIX, refuse_foreign_tokens
from ..tokens.names import describe_words
from ..tokens.token_set import TokenSet
from ..training.checkpoint import is_training
from ..training.loop import TrainResult
from ..viz.plots import loss_curves
from .console import say
from .run_config import RUN_CONFIG

__all__ = ["OUTCOMES", "UNFINISHED", "check_outputs", "outputs_of", "write_tokens", "write_training"]

OUTCOMES = {"max_steps": "finished", "early_stop": "stopped early", "interrupted": "interrupted"}
"""Words of the last line, by ``TrainResult.stop_reason``."""
UNFINISHED = "training.safetensors"
"""Checkpoint in ``--output-dir``, removed when training is finished."""
_DESCRIPTIONS = ("loss.png", "README.md", RUN_CONFIG)
_MIN_FREE_BYTES, _BYTES_PER_VECTOR = 2**20, 8 * 2**13
"""Disk space in bytes. A checkpoint holds four copies of a vector, 8 KiB each for SDXL, and exists twice during replacement."""


def outputs_of(arguments: argparse.Namespace, names: Sequence[str]) -> list[Path]:
    """Results of a training in ``--output-dir``: token set, one embedding per name, and their descriptions."""
    out = arguments.output_dir
    embeddings = (out / "embeddings" / f"{name}{SUFFIX}" for name in names)
    return [out / f"tokens{SUFFIX}", *embeddings, *(out / name for name in _DESCRIPTIONS)]


def check_outputs(arguments: argparse.Namespace, outputs: Sequence[Path], num_vectors: int) -> None:
    """Check that a training can write to ``--output-dir`` and ``--cache``, before the model is loaded.

    Args:
        outputs: the paths of ``outputs_of``.
        num_vectors: number of vectors per token.

    Raises:
        FileError: a foreign file would be replaced, a folder cannot be written to, or disk space is too low.
    """
    tokens = outputs[: -len(_DESCRIPTIONS)]
    refuse_foreign(arguments.output_dir / UNFINISHED, is_training)
    for path in outputs[-len(_DESCRIPTIONS) :]:
        refuse_foreign(path, is_marked)
    refuse_foreign_tokens(tokens[:1], sets=True)
    refuse_foreign_tokens(tokens[1:], sets=False)
    check_writable(
        arguments.output_dir, [UNFINISHED], room=_MIN_FREE_BYTES + len(tokens) * num_vectors * _BYTES_PER_VECTOR
    )
    check_writable(arguments.output_dir / "embeddings", (path.name for path in tokens))
    if arguments.cache is not None:
        check_writable(arguments.cache)


def write_training(host: Host, result: TrainResult, folder: Path) -> None:
    """Write the tokens with the training's figures, and the loss curve."""
    write_tokens(result.tokens, folder, _figures(host, result))
    try:
        write_png(loss_curves({"": result.history}), folder / "loss.png")
    except ConfigError as error:  # no step is finished
        say(f"no loss.png: {error}")


def write_tokens(tokens: TokenSet, folder: Path, figures: Mapping[str, str] | None = None) -> None:
    """Write the token set, its embeddings and its model card; report embeddings of an earlier run in the same folder."""
    path = tokens.save_pretrained(folder, figures=figures)
    remedy = f"mcti convert {path} --format embeddings --prefix my- --output FOLDER makes names of their own"
    say(describe_words(tokens.names, remedy))
    if stale := stale_embeddings(folder / "embeddings", tokens.names):
        say(
            f"{folder / 'embeddings'} also contains embeddings of other sets: {', '.join(stale)}; move them away, since "
            "programs read all of a folder"
        )


def _figures(host: Host, result: TrainResult) -> dict[str, str]:
    """Name -> value: steps, mean losses of the last tenth, and the number of examples that leave-one-out recognises."""
    if not result.steps:
        return {}
    figures = {"steps": str(result.steps)}
    for name in ("reconstruction", "classification"):
        last = [value for value in result.history.get(name, ())[-max(1, result.steps // 10) :] if math.isfinite(value)]
        if last:
            figures[f"{name} loss, mean of the last {len(last)} steps"] = f"{sum(last) / len(last):.4g}"
    with suppress(MCTIError):  # a measurement must not prevent saving the set
        found = calibrate(ClipClassifier(host, result.tokens), result.tokens)
        if found.num_samples:
            figures["examples recognised by CLIP, each judged as if it were new"] = (
                f"{found.recognised} of {found.num_samples}"
            )
    return figures
