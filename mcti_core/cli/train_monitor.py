"""What ``mcti train`` logs and draws while it runs: trackers, samples in ``--out/samples``, held-out accuracy."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..distributed import DistributedContext
from ..errors import ConfigError
from .console import progress_bar, say

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..data.dataset import FewShotDataset
    from ..hosts.base import Host
    from ..training.config import TrainConfig
    from ..training.loop import StepInfo

__all__ = ["check_monitoring", "held_out_of", "monitored"]

_STEPS = 100


def held_out_of(
    arguments: argparse.Namespace, classes: Sequence[str], others: FewShotDataset | None
) -> FewShotDataset | None:
    """The images to measure on: those in the given folder, or ``others``, which --shots has left over.

    Raises:
        ConfigError: they are of other classes, or without a CLIP space.
    """
    from ..data.dataset import FewShotDataset
    from ..evaluation.validation import check_held_out

    if arguments.validation_folder is None:
        return others if arguments.validation_steps or arguments.validation_prompt else None
    if arguments.model is not None and arguments.clip is None:
        raise ConfigError("--validation-folder measures by image features; give a CLIP space with --clip")
    held_out = FewShotDataset.from_folder(arguments.validation_folder, alone=True)
    check_held_out(held_out.classes, classes)
    return held_out


def check_monitoring(arguments: argparse.Namespace, labels: Sequence[str], names: Sequence[str]) -> None:
    """Look at all that logging and drawing needs, before anything slow.

    Raises:
        ConfigError: a package is missing, or there is nothing to do every few steps.
        TokenError: a prompt names no class.
        FileError: a file of others is in the place of the log, or the samples' folder cannot be written to.
    """
    from ..evaluation.validation import class_prompts
    from ..files.outputs import check_writable
    from ..files.ownership import refuse_foreign
    from ..training.trackers import check_trackers, is_log

    check_trackers(arguments.report_to)
    if arguments.validation_steps and not (
        arguments.validation_prompt or arguments.validation_folder or arguments.shots
    ):
        raise ConfigError("--validation-steps goes with --validation-prompt, --validation-folder or --shots")
    for prompt in arguments.validation_prompt:
        class_prompts(prompt, names, labels)
    if "csv" in arguments.report_to:
        refuse_foreign(arguments.out / "log.csv", is_log)
    if arguments.validation_prompt:
        check_writable(arguments.out / "samples")


@contextmanager
def monitored(
    arguments: argparse.Namespace, host: Host, config: TrainConfig, held_out: FewShotDataset | None, processes: DistributedContext,
) -> Iterator[Callable[[StepInfo], object]]:  # fmt: skip
    """What to call after every step. Only the first process logs and draws."""
    from ..data.feature_cache import FeatureCache
    from ..evaluation.validation import Validation
    from ..files.provenance import write_png
    from ..training.trackers import Trackers

    features = None
    if held_out is not None:
        with progress_bar("held-out features", "image", shown=processes.is_main) as progress:
            features = FeatureCache.build(
                host, held_out, mirror=False, latents=False, progress=progress, processes=processes
            )
    if not processes.is_main:
        yield lambda info: None
        return
    wanted = arguments.validation_prompt or features is not None
    validation = Validation(
        host,
        arguments.validation_steps or (_STEPS if wanted else 0),
        arguments.validation_prompt,
        features,
        seed=config.seed,
        tell=say,
        show=lambda step, picture: write_png(picture, arguments.out / "samples" / f"step-{step:05}.png"),
    )
    with Trackers(arguments.report_to, arguments.out, config, tell=say) as trackers:

        def on_step(info: StepInfo) -> None:
            validation.on_step(info)
            accuracy = validation.accuracies.get(info.step)
            say("" if accuracy is None else f"step {info.step}: held-out accuracy {accuracy:.1%}")
            trackers.on_step(info, accuracy, validation.images)

        yield on_step
