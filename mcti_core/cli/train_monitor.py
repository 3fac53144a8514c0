"""Logs, samples and held-out accuracy of ``mcti train``."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from ..data.dataset import FewShotDataset
from ..data.feature_cache import FeatureCache
from ..distributed import DistributedContext
from ..errors import ConfigError, listed
from ..evaluation.validation import Validation, class_prompts
from ..files.provenance import is_marked, write_png
from ..files.writing import check_writable, delete_own, refuse_foreign
from ..hosts.base import Host
from ..tokens.names import index_of
from ..training.config import TrainConfig
from ..training.loop import StepInfo
from ..training.trackers import Trackers, check_trackers, is_log
from .console import progress_bar, say

__all__ = ["check_monitoring", "earlier_logs", "held_out_of", "monitored", "remove_samples"]

_STEPS = 100
"""Default number of steps between validations."""


def held_out_of(
    arguments: argparse.Namespace, classes: Sequence[str], others: FewShotDataset | None
) -> FewShotDataset | None:
    """Held-out images from --validation-folder, or ``others``, the images that --shots leaves; None if not requested.

    Raises:
        ConfigError: a class is not in training, or there is no CLIP space.
    """
    if arguments.validation_folder is None:
        return others if arguments.validation_steps or arguments.validation_prompt else None
    if arguments.model is not None and arguments.clip is None:
        raise ConfigError("--validation-folder measures by image features; give a CLIP space with --clip")
    held_out = FewShotDataset.from_folder(arguments.validation_folder, min_classes=1)
    if unknown := [name for name in held_out.classes if index_of(name, classes) is None]:
        raise ConfigError(f"--validation-folder has classes that are not in training: {listed(unknown)}; remove them")
    return held_out


def check_monitoring(arguments: argparse.Namespace, labels: Sequence[str], names: Sequence[str]) -> None:
    """Check the monitoring options before the model is loaded.

    Raises:
        ConfigError: a package is missing, or --validation-steps has nothing to do.
        TokenError: a prompt names no class.
        FileError: the log would replace a foreign file, or the samples' folder cannot be written to.
    """
    prompts = arguments.validation_prompt
    check_trackers(arguments.report_to)
    if arguments.validation_steps and not (prompts or arguments.validation_folder or arguments.shots):
        raise ConfigError("--validation-steps goes with --validation-prompt, --validation-folder or --shots")
    for prompt in prompts:
        class_prompts(prompt, names, labels)
    if "csv" in arguments.report_to:
        refuse_foreign(arguments.output_dir / "log.csv", is_log)
    if prompts:
        check_writable(arguments.output_dir / "samples")


def earlier_logs(arguments: argparse.Namespace) -> list[Path]:
    """Log and samples of an earlier training that this one would replace."""
    log = arguments.output_dir / "log.csv"
    samples = sorted((arguments.output_dir / "samples").glob("step-*.png")) if arguments.validation_prompt else []
    return [*([log] if "csv" in arguments.report_to else []), *samples]


def remove_samples(arguments: argparse.Namespace) -> None:
    """Remove the samples of an earlier training, which may be of other steps than those of this one; files of others stay."""
    for path in earlier_logs(arguments):
        if path.suffix == ".png":
            with suppress(OSError):
                delete_own(path, is_marked)


@contextmanager
def monitored(
    arguments: argparse.Namespace, host: Host, config: TrainConfig, held_out: FewShotDataset | None, processes: DistributedContext,
) -> Iterator[Callable[[StepInfo], object]]:  # fmt: skip
    """A callback for each step of ``train``. Only the first process logs and draws."""
    features, prompts, folder = None, arguments.validation_prompt, arguments.output_dir / "samples"
    if held_out is not None:
        with progress_bar("held-out features", "image", shown=processes.is_main) as progress:
            features = FeatureCache.build(
                host, held_out, hflip=False, latents=False, progress=progress, processes=processes
            )
    if not processes.is_main:
        yield lambda info: None
        return
    every = arguments.validation_steps or (_STEPS if prompts or features is not None else 0)
    show = lambda step, picture: write_png(picture, folder / f"step-{step:05}.png")  # noqa: E731
    validation = Validation(host, every, prompts, features, seed=config.seed, log=say, show=show)
    with Trackers(arguments.report_to, arguments.output_dir, config, log=say) as trackers:

        def on_step(info: StepInfo) -> None:
            validation.on_step(info)
            accuracy = validation.accuracies.get(info.step)
            say("" if accuracy is None else f"step {info.step}: held-out accuracy {accuracy:.1%}")
            trackers.on_step(info, accuracy, validation.images)

        yield on_step
