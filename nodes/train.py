"""Node Train MC-TI Tokens."""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import replace
from typing import Any

import comfy.model_management
import torch
from comfy_api.latest import io
from PIL import Image
from torch import Tensor

from ..mcti_core.errors import MCTIError, ResumeError
from ..mcti_core.escaping import escaped
from ..mcti_core.tokens.encoders import CLIP_FOR_CLASSIFYING
from ..mcti_core.tokens.token_set import TokenSet
from ..mcti_core.training.config import ADAPTIVE, TrainConfig
from ..mcti_core.training.errors import TrainingError
from ..mcti_core.viz.image_grid import image_grid
from ..mcti_core.viz.plots import loss_curves
from .checking import Node
from .checkpoints import discard, finished_tokens_kept, keep_tokens, tokens_so_far, unfinished_path, unfinished_state
from .context import ProgressReporter
from .schema import advanced, node_schema
from .train_settings import setting_inputs, settings_of
from .types import ClipSpaceType, Examples, ExamplesType, Settings, TokensType, picture_out

__all__ = ["AUTO_GAMMA", "TrainTokens"]

_DEFAULT = TrainConfig()
_SAMPLES_PER_ROW = 5
AUTO_GAMMA = -1.0
"""Value of the numeric widget that means "auto"."""
_EXAMPLES_PER_CHUNK = 4
"""Number of images between checks for a cancel."""
_MIN_SAMPLE_PIXELS = 128


class TrainTokens(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="MCTI_TrainTokens",
            search_aliases=[
                "textual inversion",
                "train embedding",
                "learn concept",
                "embedding",
                "few-shot",
                "personalization",
                "multi-class textual inversion",
            ],
            inputs=[
                io.Model.Input("model"),
                io.Clip.Input("clip"),
                io.Vae.Input("vae"),
                ExamplesType.Input("examples"),
                io.Int.Input("steps", default=_DEFAULT.steps, min=1, max=100_000),
                io.Int.Input("batch_size", default=_DEFAULT.batch_size, min=1, max=256),
                io.Float.Input("lr", default=_DEFAULT.lr, min=1e-6, max=1.0, step=1e-4, round=1e-6),
                io.Float.Input("gamma", default=AUTO_GAMMA, min=AUTO_GAMMA, max=100.0, step=0.01, round=0.0001),
                io.Int.Input("seed", default=0, min=0, max=2**31 - 1, control_after_generate=False),
                ClipSpaceType.Input("clip_space", optional=True),
                TokensType.Input("initial_tokens", optional=True),
                *map(advanced, setting_inputs()),
            ],
            outputs=[
                TokensType.Output("tokens"),
                io.Clip.Output("clip_with_tokens"),
                io.LossMap.Output("loss_map"),
                io.Image.Output("loss_curve"),
                io.Image.Output("sample_images"),
                io.String.Output("summary"),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, vae: Any, examples: Examples, steps: int, batch_size: int, lr: float, gamma: float, seed: int,
        clip_space: Any = None, initial_tokens: TokenSet | None = None, **advanced_settings: Any,
    ) -> io.NodeOutput:  # fmt: skip
        from ..mcti_core.data.feature_cache import FeatureCache
        from ..mcti_core.data.near_duplicates import describe_across_classes, example_names
        from ..mcti_core.hosts.comfy.host import comfy_host
        from ..mcti_core.hosts.comfy.prompt_tokens import clip_with_tokens
        from ..mcti_core.training.initial import new_tokens

        settings = settings_of(**advanced_settings)
        gamma = ADAPTIVE if gamma == AUTO_GAMMA else gamma
        terms = {"gamma": 0.0, "classification_only_steps": 0} if clip_space is None else {"gamma": gamma}
        config = replace(settings.config, steps=steps, batch_size=batch_size, lr=lr, seed=seed, **terms)
        dataset, host = examples.dataset(), comfy_host(clip, model, vae, clip_space)
        size = examples.size or host.image_size
        cache = FeatureCache.build(
            host, dataset, hflip=settings.hflip, size=size, batch_size=_EXAMPLES_PER_CHUNK, buckets=examples.buckets,
            progress=ProgressReporter("examples"),
        )  # fmt: skip
        tokens = initial_tokens or new_tokens(
            host, dataset.classes, num_vectors=settings.num_vectors, initializer_token=settings.initializer_token or None, seed=seed
        )  # fmt: skip
        validation = _validation(host, examples, settings, config, size)
        result, autosave = _train(host, cache, tokens, config, validation)
        with finished_tokens_kept(result.tokens, autosave.path):
            curve = picture_out(loss_curves({"": result.history}))
            samples, problem = _samples(host, result.tokens, settings.num_samples, size, seed)
            loss = {"loss": [float(value) for value in result.history["loss"]]}
            copies = describe_across_classes(cache.alike, cache.labels, example_names(dataset))
            unused = _unused(settings, initial_tokens)
            accuracies = ", ".join(f"step {step} {share:.0%}" for step, share in validation.accuracies.items())
            measured = f"Held-out accuracy: {accuracies}" if accuracies else ""
            notes = [escaped(line) for line in (measured, copies, unused, problem) if line]
            summary = "\n".join([_summary(result, len(dataset), clip_space is None and gamma != 0), *notes])
            logging.info("MC-TI: %s", summary)
            output = io.NodeOutput(result.tokens, clip_with_tokens(clip, result.tokens), loss, curve, samples, summary)
        autosave.remove()
        return output


def _unused(settings: Settings, initial_tokens: TokenSet | None) -> str:
    """A line about settings that ``initial_tokens`` makes ineffective; "" if there are none."""
    if initial_tokens is None:
        return ""
    unused = ["num_vectors"] * (settings.num_vectors not in (1, initial_tokens.vectors_per_token))
    unused += ["initializer_token"] * bool(settings.initializer_token)
    return f"Not used, since the tokens of initial_tokens are trained further: {', '.join(unused)}" if unused else ""


def _validation(host: Any, examples: Examples, settings: Settings, config: TrainConfig, size: int) -> Any:
    """A ``Validation`` of the held-out examples; inactive if ``validation_steps`` is 0."""
    from ..mcti_core.data.feature_cache import FeatureCache
    from ..mcti_core.evaluation.validation import Validation

    features, others = None, examples.held_out
    if settings.validation_steps and others is not None and len(others) and host.clip is not None:
        others = replace(others, captions={}, masks={})
        features = FeatureCache.build(
            host, others.dataset(), hflip=False, size=size, batch_size=_EXAMPLES_PER_CHUNK, latents=False, progress=ProgressReporter("held-out examples")
        )  # fmt: skip
    return Validation(
        host, settings.validation_steps, (settings.validation_prompt or config.templates[0],), features, size=size, seed=config.seed,
        log=lambda problem: logging.warning("MC-TI: %s", escaped(problem)),
        passing=(comfy.model_management.InterruptProcessingException,),
    )  # fmt: skip


def _train(host: Any, cache: Any, tokens: TokenSet, config: TrainConfig, validation: Any) -> tuple[Any, Any]:
    """Train, and on any interruption save a checkpoint and the tokens of the last completed step.

    Returns:
        The result, and the ``AutoSaver``, which keeps the checkpoint until ``remove`` is called.
    """
    from ..mcti_core.training.autosave import AutoSaver
    from ..mcti_core.training.loop import StepInfo, train
    from ..mcti_core.training.resume import run_identity

    identity, report = run_identity(host, cache, tokens, config), ProgressReporter("training")
    comfy.model_management.throw_exception_if_processing_interrupted()
    path = unfinished_path(identity)
    resume = unfinished_state(path, identity)
    last_step, last_picture = deque[StepInfo](maxlen=1), deque[Image.Image](maxlen=1)
    validation.show = lambda step, picture: last_picture.append(picture)

    with AutoSaver(path, log=lambda problem: logging.warning("MC-TI: %s", problem)) as autosave:

        def on_step(info: StepInfo) -> None:
            last_step.append(info)
            autosave.on_step(info)
            validation.on_step(info)
            if (accuracy := validation.accuracies.get(info.step)) is not None:
                logging.info("MC-TI training: step %d, held-out accuracy %.0f %%", info.step, 100 * accuracy)
            report(info.step, info.total, lambda: _below([loss_curves({"": info.history()}), *last_picture]))

        try:
            try:
                return train(host, cache, tokens, config, on_step=on_step, resume=resume), autosave
            except ResumeError as error:  # before the first step
                discard(path, str(error))
                return train(host, cache, tokens, config, on_step=on_step), autosave
        except TrainingError as error:
            keep_tokens(error.tokens, path, last_step[-1].step if last_step else 0, config)
            raise
        except BaseException:
            if last_step:
                keep_tokens(tokens_so_far(last_step[-1]), path, last_step[-1].step, config)
            raise


def _samples(host: Any, tokens: TokenSet, classes: int, size: int, seed: int) -> tuple[Tensor, str]:
    """Draw one labelled image per class for the first classes, with the first template.

    Returns:
        The picture, white without images, and a line about samples that failed, which do not discard the trained tokens.
    """
    from ..mcti_core.sampling import generate

    labels, images, problem = tokens.labels[:classes], list[Tensor](), ""
    try:
        if labels:
            generate(
                host, range(len(labels)), tokens, size=size, seed=seed, batch_size=1, progress=ProgressReporter("samples"),
                on_image=lambda _, image: images.append(image),
            )  # fmt: skip
    except comfy.model_management.InterruptProcessingException:
        raise
    except Exception as error:
        if not isinstance(error, MCTIError):
            logging.exception("MC-TI: a sample was not drawn")
        problem = f"Samples drawn: {len(images)} of {len(labels)}; {str(error)[:300] or type(error).__name__}"
    if not images:
        return torch.ones(1, 64, 64, 3), problem
    starts, scale = range(0, len(images), _SAMPLES_PER_ROW), max(1, _MIN_SAMPLE_PIXELS // size)
    rows = [(images[i : i + _SAMPLES_PER_ROW], labels[i : i + _SAMPLES_PER_ROW]) for i in starts]
    sheet = _below([image_grid([row], [""], names[: len(row)], scale) for row, names in rows])
    return picture_out(sheet), problem


def _below(pictures: list[Image.Image]) -> Image.Image:
    """Stack pictures vertically on white."""
    sheet = Image.new("RGB", (max(each.width for each in pictures), sum(each.height for each in pictures)), "white")
    for number, each in enumerate(pictures):
        sheet.paste(each, (0, sum(above.height for above in pictures[:number])))
    return sheet


def _summary(result: Any, images: int, no_clip_space: bool) -> str:
    tokens = result.tokens
    kind = "multi-class textual inversion" if tokens.training["gamma"] else "plain textual inversion"
    why = " (no CLIP space is connected: the classification term was left out)" if no_clip_space else ""
    if CLIP_FOR_CLASSIFYING in result.tokens.vectors:
        why = (
            " (no CLIP is among this model's text encoders: the classification term trained separate vectors for the CLIP space's own"
            " text tower, which is not the paper's coupling of both terms)"
        )
    if "gamma_last" in tokens.training:
        kind += f" with gamma {tokens.training['gamma_last']:.2g} at the end"
    names = ", ".join(f"embedding:{name}" for name in tokens.names)
    end = ", stopped early since the evaluated loss no longer improved" if result.stop_reason == "early_stop" else ""
    return (
        f"{kind}{why}: {len(tokens)} classes, {images} images, {result.steps} steps, {result.seconds:.0f} s{end}.\n"
        f"In prompts: {names}"
    )
