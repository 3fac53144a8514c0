"""Tables of the noise error of every class of every image on every pair, to replay any strategy of spending evaluations.

A table costs images x classes x pairs evaluations once. It is stored in a folder, and replaying a strategy then takes a moment.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mcti_core.classifiers.calibration import calibrate
from mcti_core.classifiers.clip import ClipClassifier
from mcti_core.classifiers.diffusion import DiffusionClassifier
from mcti_core.data.dataset import FewShotDataset, few_shot_split
from mcti_core.data.feature_cache import FeatureCache
from mcti_core.demo.results import PLAIN
from mcti_core.hosts.base import Host
from mcti_core.pocket import POCKET_CONFIG
from mcti_core.pocket.digits import digit_dataset
from mcti_core.pocket.glyphs import pen_masks
from mcti_core.pocket.recipe.omniglot import HELD_OUT, omniglot_lines
from mcti_core.pocket.recipe.shapes import held_out_images
from mcti_core.training.initial import new_tokens
from mcti_core.training.loop import train
from mcti_core.training.resume import run_identity

__all__ = ["ALPHABET", "DIGITS", "TUNING", "Table", "Task", "make_table"]

SHOTS, TUNED = 5, 10
"""Examples per class; number of characters of the held-out alphabet that settings were chosen on, the first ones."""


@dataclass(frozen=True)
class Task:
    """Images of the classes, and the number of queries per class."""

    name: str
    seeds: tuple[int, ...]
    """Each seed chooses examples, seeds the training, and has its own noise."""
    each: int


TUNING = Task("tuning characters", (10, 11), 8)
DIGITS = Task("digits", (0, 1, 2), 10)
ALPHABET = Task("alphabet", (0, 1, 2), 4)


@dataclass(frozen=True)
class Table:
    """Measurements of one task and seed."""

    errors: Tensor
    """(N, C, P) float32 noise errors."""
    labels: Tensor
    """(N,) int64 true classes."""
    clip: Tensor
    """(N, C) float32 calibrated log-probabilities, up to a constant, of the CLIP classifier with the same tokens."""
    images: Tensor
    """(N,) int64 indices of the queries in the task's images; several seeds may use the same image."""


def make_table(
    host: Host,
    task: Task,
    seed: int,
    pairs: int,
    *,
    folder: Path | None,
    omniglot: Path | None,
    steps: int | None = None,
) -> Table:
    """The table, read from ``folder`` if it contains one for the same models, images and training.

    Args:
        pairs: P. A table of more pairs begins with those of fewer.
        omniglot: ``images_background_small1.zip``, for the characters.
        steps: of training; by default the pocket checkpoint's own.
    """
    cache = FeatureCache.build(host, _dataset(task, omniglot), hflip=False, batch_size=64)
    few, others = few_shot_split(cache.labels, cache.classes, SHOTS, seed)
    config = replace(POCKET_CONFIG, seed=seed, steps=steps or POCKET_CONFIG.steps)
    support, query, first = cache.pick(few), cache.pick(others), new_tokens(host, cache.classes)
    drawn, _ = few_shot_split(query.labels, cache.classes, task.each, seed)
    asked, images = query.pick(drawn), others[drawn]

    path = None if folder is None else folder / f"{task.name.replace(' ', '-')}-{seed}.safetensors"
    identity = {**run_identity(host, support, first, config), "asked": asked.fingerprint, "noise": str(1000 + seed)}
    if path is not None and path.exists():
        return _cut(_read_table(path, identity), pairs)
    tokens = train(host, support, first, config).tokens
    assert asked.latents is not None
    assert asked.features is not None
    classifier = DiffusionClassifier(host, tokens, num_trials=pairs, alpha=0, template=PLAIN, seed=1000 + seed)
    every = torch.ones(len(asked), len(cache.classes), dtype=torch.bool)
    errors, _ = classifier.compare(asked.latents[:, 0], every)
    clip = ClipClassifier(host, tokens)
    calibrate(clip, tokens)
    table = Table(errors, asked.labels, clip.logits(asked.features[:, 0]) / clip.temperature, images)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: value.clone().contiguous() for name, value in vars(table).items()}, path, identity)
    return table


def _read_table(path: Path, identity: dict[str, str]) -> Table:
    with safe_open(path, "pt") as file:
        if file.metadata() != identity:
            raise SystemExit(f"{path} is of other models, images or settings: give another --tables folder")
    return Table(**load_file(path))


def _cut(table: Table, pairs: int) -> Table:
    if table.errors.shape[2] < pairs:
        raise SystemExit(f"the kept table has {table.errors.shape[2]} pairs, not {pairs}: give another --tables folder")
    return replace(table, errors=table.errors[..., :pairs])


def _dataset(task: Task, omniglot: Path | None) -> FewShotDataset:
    if task.name == DIGITS.name:
        return digit_dataset()
    assert omniglot is not None
    names, lines = omniglot_lines([omniglot])
    held = torch.tensor([alphabet == HELD_OUT for alphabet, _ in names])
    masks = torch.stack([pen_masks(drawn) for drawn in lines[held]])
    images, _, labels = held_out_images(masks, torch.Generator().manual_seed(6))
    chosen = range(TUNED) if task.name == TUNING.name else range(TUNED, int(held.sum()))
    kept = torch.isin(labels, torch.tensor(chosen)).nonzero()[:, 0]
    classes = tuple(f"character {index + 1:02d}" for index in chosen)
    return FewShotDataset(classes, tuple(images[i] for i in kept.tolist()), labels[kept] - chosen[0])
