"""Nodes that train: Train MC-TI Tokens, and its rarely used settings."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import comfy.model_management
import torch
from comfy_api.latest import io
from PIL import Image
from torch import Tensor

from ..mcti_core.config import ADAPTIVE, SCHEDULES, TrainConfig
from ..mcti_core.errors import ResumeError, TrainingError
from ..mcti_core.losses import DIRECTIONS
from ..mcti_core.plots import loss_curves
from ..mcti_core.sheets import image_grid
from ..mcti_core.templates import OBJECT_TEMPLATES, STYLE_TEMPLATES
from ..mcti_core.tokens import POOLINGS, TokenSet
from .checking import Node
from .running import Reporter, working
from .types import (
    CATEGORY,
    ClipSpaceType,
    Examples,
    ExamplesType,
    Settings,
    SettingsType,
    TokensType,
    optional,
    picture_out,
)
from .unfinished import give_up, keep_tokens, tokens_so_far, unfinished_path, unfinished_state

__all__ = ["TrainTokens", "TrainingSettings"]

_DEFAULT = TrainConfig()
_SAMPLES_A_ROW = 5
_EXAMPLES_AT_ONCE = 4
"""Images between looks at whether the user has cancelled."""
_LEAST_SAMPLE = 128
"""Pixels that a sample is shown in at least."""
_TEMPLATES = {"object": OBJECT_TEMPLATES, "style": STYLE_TEMPLATES}


class TrainTokens(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MCTI_TrainTokens",
            display_name="Train MC-TI Tokens",
            category=CATEGORY,
            description=(
                "Learn a token for every class at once. The checkpoint stays as it is. Afterwards write embedding:name in a prompt, with "
                "the CLIP from here, and classify with the tokens. Cancelling keeps what was learned; queue again to go on."
            ),
            inputs=[
                io.Model.Input(
                    "model", tooltip="The checkpoint's diffusion model: Stable Diffusion 1.x, 2.x, SDXL or 3."
                ),
                io.Clip.Input("clip", tooltip="The checkpoint's text encoder."),
                io.Vae.Input("vae", tooltip="The checkpoint's VAE."),
                ExamplesType.Input("examples", tooltip="Images of two or more classes."),
                io.Int.Input(
                    "steps",
                    default=_DEFAULT.steps,
                    min=1,
                    max=100_000,
                    tooltip="Training steps, for all classes together.",
                ),
                io.Int.Input(
                    "batch",
                    default=_DEFAULT.batch,
                    min=1,
                    max=256,
                    tooltip="Images a step. Where memory runs out, they go through in parts.",
                ),
                io.Float.Input(
                    "lr", default=_DEFAULT.lr, min=1e-6, max=1.0, step=1e-4, round=1e-6, tooltip="Learning rate."
                ),
                io.Float.Input(
                    "gamma",
                    default=_DEFAULT.gamma,
                    min=0.0,
                    max=100.0,
                    step=0.05,
                    round=0.001,
                    tooltip="How much telling classes apart counts beside drawing them. 0 is plain textual inversion.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    control_after_generate=False,
                    tooltip="The same seed and inputs give the same tokens.",
                ),
                optional(
                    ClipSpaceType,
                    "clip_space",
                    "CLIP's image side. Without it, training is plain textual inversion (gamma 0).",
                ),
                optional(SettingsType, "settings", "Rarely used settings, from MC-TI Training Settings."),
                optional(
                    TokensType,
                    "start_from",
                    "Learned tokens of the same classes, in the same order, to start from rather than from a word.",
                ),
            ],
            outputs=[
                TokensType.Output("tokens", display_name="tokens", tooltip="The learned tokens."),
                io.Clip.Output(
                    "clip_with_tokens",
                    display_name="CLIP with tokens",
                    tooltip="A CLIP whose prompts know embedding:name. The one connected does not change.",
                ),
                io.LossMap.Output("loss_map", display_name="loss", tooltip="For the stock node Plot Loss Graph."),
                io.Image.Output("loss_curve", display_name="loss curve", tooltip="The loss as a picture."),
                io.Image.Output(
                    "samples", display_name="samples", tooltip="Images of the first classes, drawn with the tokens."
                ),
                io.String.Output(
                    "summary", display_name="summary", tooltip="What was done, and the names for prompts."
                ),
            ],
        )

    @classmethod
    def execute(
        cls, model: Any, clip: Any, vae: Any, examples: Examples, steps: int, batch: int, lr: float, gamma: float | str, seed: int,
        clip_space: Any = None, settings: Settings | None = None, start_from: TokenSet | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        from ..mcti_core.features import FeatureCache
        from ..mcti_core.hosts.comfy import clip_with_tokens, comfy_host

        chosen = settings or Settings()
        with working():
            gamma = ADAPTIVE if chosen.config.adaptive else gamma
            alone = {"gamma": 0.0, "warm_start": 0} if clip_space is None else {"gamma": gamma}
            config = replace(chosen.config, steps=steps, batch=batch, lr=lr, seed=seed, **alone)
            dataset, host = examples.dataset(), comfy_host(clip, model, vae, clip_space)
            size, seen = examples.size or host.image_size, Reporter("examples")
            cache = FeatureCache.build(
                host, dataset, mirror=chosen.mirror, size=size, batch=_EXAMPLES_AT_ONCE, progress=seen
            )
            first = _first_tokens(host, dataset.classes, chosen, seed, start_from)
            result, keeping = _train(host, cache, first, config)
            curve = picture_out(loss_curves({"": result.history}))
            samples = _samples(host, result.tokens, chosen.samples, size, seed)
            loss = {"loss": [float(value) for value in result.history["loss"]]}
            summary = _summary(result, len(dataset), clip_space is None and gamma != 0)
            logging.info("MC-TI: %s", summary)
            output = io.NodeOutput(result.tokens, clip_with_tokens(clip, result.tokens), loss, curve, samples, summary)
            keeping.remove()  # not earlier: what comes after the training may be broken off too
            return output


class TrainingSettings(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        def number(name: str, least: int, most: int, tooltip: str) -> Any:
            return io.Int.Input(name, default=getattr(_DEFAULT, name), min=least, max=most, tooltip=tooltip)

        return io.Schema(
            node_id="MCTI_TrainingSettings",
            display_name="MC-TI Training Settings",
            category=CATEGORY,
            description="Settings of a training that are rarely changed.",
            inputs=[
                io.Combo.Input("templates", options=[*_TEMPLATES, "own"], default="object", tooltip="Prompts that tokens are trained in: of objects, of styles, or your own."),
                io.String.Input("own_templates", multiline=True, default="", tooltip="Your own prompts, one a line, each with {} where the token goes."),
                io.String.Input("initial_word", default="", tooltip="A word to start from, or mean or random. Empty takes a word for anything."),
                io.Int.Input("vectors", default=1, min=1, max=16, tooltip="Vectors a token. More can hold more detail and cost prompt length."),
                io.Boolean.Input("mirror", default=True, tooltip="Also learn from mirror images. Turn it off where left and right matter, as in writing."),
                io.Combo.Input("direction", options=list(DIRECTIONS), default=_DEFAULT.direction, tooltip="Whether images find their text, texts their image, or both."),
                io.Combo.Input("pooling", options=list(POOLINGS), default=_DEFAULT.pooling, tooltip="Where a prompt's text feature is read: at its end, or at the token."),
                io.Float.Input("logit_scale", default=_DEFAULT.logit_scale, min=0.1, max=1000.0, step=0.1, tooltip="How sharply classes are told apart in training."),
                io.Float.Input("gamma_end", default=0.0, min=0.0, max=100.0, step=1e-4, round=1e-6, tooltip="What gamma falls to over the training. 0 keeps it constant."),
                io.Combo.Input("lr_schedule", options=list(SCHEDULES), default=_DEFAULT.lr_schedule, tooltip="How the learning rate goes on after its rise."),
                number("lr_warmup", 0, 10_000, "Steps over which the learning rate rises."),
                io.Float.Input("weight_decay", default=_DEFAULT.weight_decay, min=0.0, max=1.0, step=1e-3, round=1e-6, tooltip="Pulls vectors towards zero."),
                number("warm_start", 0, 10_000, "Steps on telling classes apart alone before the first; they cost little."),
                number("text_classes", 1, 4096, "Most classes whose prompts are encoded in one step."),
                number("probe_every", 0, 10_000, "Steps between looks at a fixed probe, to stop early. 0 never looks."),
                number("patience", 1, 1000, "Looks without improvement after which training stops."),
                io.Int.Input("samples", default=4, min=0, max=32, tooltip="Classes of which a sample is drawn when the training is done."),
                io.Float.Input("gradient_ratio", optional=True, default=0.0, min=0.0, max=100.0, step=0.1, round=0.001, tooltip="Above 0, gamma follows the gradients: telling apart pulls on the tokens this many times as hard as drawing. Try 0.7. 0 takes gamma as it is given."),
            ],
            outputs=[SettingsType.Output("settings", display_name="settings", tooltip="For settings of Train MC-TI Tokens.")],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, templates: str, own_templates: str, initial_word: str, vectors: int, mirror: bool, samples: int, gamma_end: float,
        gradient_ratio: float = 0.0, **config: Any,
    ) -> io.NodeOutput:  # fmt: skip
        with working():
            own = tuple(line.strip() for line in own_templates.splitlines() if line.strip())
            prompts = own if templates == "own" else _TEMPLATES[templates]
            if gradient_ratio:
                config |= {"gamma": ADAPTIVE, "gradient_ratio": gradient_ratio}
            settings = TrainConfig(templates=prompts, gamma_end=gamma_end or None, **config)
            return io.NodeOutput(Settings(settings, vectors, initial_word.strip(), mirror, samples))


def _first_tokens(
    host: Any, labels: tuple[str, ...], chosen: Settings, seed: int, start_from: TokenSet | None
) -> TokenSet:
    from ..mcti_core.experiments import new_tokens

    if start_from is not None:
        return start_from
    return new_tokens(host, labels, vectors=chosen.vectors, init=chosen.initial_word or None, seed=seed)


def _train(host: Any, cache: Any, tokens: TokenSet, config: TrainConfig) -> tuple[Any, Any]:
    """Train, and whatever breaks it off, keep the last whole step: one file to go on from, and one of tokens to use.

    Returns:
        The result, and what keeps the training until it is told to remove it.
    """
    from ..mcti_core.keeping import Keeping
    from ..mcti_core.memory import train_in_memory
    from ..mcti_core.training import StepInfo, run_identity

    identity, report = run_identity(host, cache, tokens, config), Reporter("training")
    comfy.model_management.throw_exception_if_processing_interrupted()
    path = unfinished_path(identity)
    resume = unfinished_state(path, identity)
    last: list[StepInfo] = []

    with Keeping(path, tell=lambda problem: logging.warning("MC-TI: %s", problem)) as keeping:

        def on_step(info: StepInfo) -> None:
            last[:] = [info]
            keeping.on_step(info)
            report(info.step, info.total, lambda: loss_curves({"": info.history()}))

        try:
            try:
                return train_in_memory(host, cache, tokens, config, on_step=on_step, resume=resume), keeping
            except ResumeError as error:  # before the first step
                give_up(path, error)
                return train_in_memory(host, cache, tokens, config, on_step=on_step), keeping
        except TrainingError as error:
            keep_tokens(error.tokens, last[-1].step if last else 0, config)
            raise
        except BaseException:
            if last:
                keep_tokens(tokens_so_far(last[-1]), last[-1].step, config)
            raise


def _samples(host: Any, tokens: TokenSet, classes: int, size: int, seed: int) -> Tensor:
    """One image of each of the first classes, in the first template, labelled."""
    from ..mcti_core.sampling import generate

    names = tokens.names[:classes]
    if not names:
        return torch.ones(1, 64, 64, 3)
    prompts = [tokens.templates[0].replace("{}", f"embedding:{name}") for name in names]
    images = generate(host, prompts, tokens, size=size, seed=seed, batch=1, progress=Reporter("samples"))
    scale = max(1, _LEAST_SAMPLE // size)
    starts = range(0, len(names), _SAMPLES_A_ROW)
    shown = [(list(images[i : i + _SAMPLES_A_ROW]), list(tokens.labels[i : i + _SAMPLES_A_ROW])) for i in starts]
    rows = [image_grid([row], [""], labels, scale) for row, labels in shown]
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    for number, row in enumerate(rows):
        sheet.paste(row, (0, sum(above.height for above in rows[:number])))
    return picture_out(sheet)


def _summary(result: Any, images: int, no_clip_space: bool) -> str:
    tokens = result.tokens
    kind = "MC-TI" if tokens.training["gamma"] else "plain textual inversion"
    why = " (no CLIP space is connected: the classification term was left out)" if no_clip_space else ""
    if "gamma_last" in tokens.training:
        kind += f" with gamma {tokens.training['gamma_last']:.2g} at the end"
    names = ", ".join(f"embedding:{name}" for name in tokens.names)
    end = {"converged": ", stopped early since the probe no longer improved"}.get(result.stopped, "")
    return (
        f"{kind}{why}: {len(tokens)} classes, {images} images, {result.steps} steps, {result.seconds:.0f} s{end}.\n"
        f"In prompts: {names}"
    )
