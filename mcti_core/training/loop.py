"""Training: textual inversion of all classes at once, with a discriminative term. The loop reads top to bottom."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import Parameter

from ..data.feature_cache import FeatureCache
from ..data.samplers import ClassBalancedBatchSampler
from ..distributed import SINGLE_PROCESS, DistributedContext
from ..errors import ConfigError
from ..hosts.base import Host
from ..prompts.splicing import template_prompts
from ..tokens.token_set import TokenSet
from .adaptive_gamma import AdaptiveGamma
from .caption_prompts import CaptionPrompts
from .config import TrainConfig
from .early_stopping import EarlyStopping, ValidationLoss
from .errors import StopTraining, TrainingError
from .history import History, gradients
from .objective import discriminative_loss, encode_classes, reconstruction_loss
from .saved_tensors import saved_tensors_verified
from .schedules import gamma_of_step, learning_rate
from .state import Progress, TrainState
from .validation import check_training
from .vector_norms import rescale_, vocabulary_norm

__all__ = ["StepInfo", "TrainConfig", "TrainResult", "run_identity", "train"]

_T = TypeVar("_T")
_READ_EVERY = 16
"""Steps after which losses are read, and looked at. Each time, a GPU's queue of work runs empty. Then, too, several processes
agree on whether to stop: all must leave the loop after the same step."""
_VERIFY_EVERY = 100
"""Steps after which gradients are verified again, where the host moves weights."""
_FOR_MEMORY = ("micro_batch", "gradient_checkpointing")
"""Settings that change what fits into memory, not what is learned."""


@dataclass(frozen=True)
class StepInfo:
    """What ``on_step`` sees after each step. The calls wait for the device: make them now and then, not at every step.

    They raise ``TrainingError`` if a loss was not finite.
    """

    step: int
    """Steps done, from 1 on; the warm start counts."""
    total: int
    history: Callable[[], Mapping[str, tuple[float, ...]]]
    """``loss``, ``reconstruction``, ``classification`` and an adaptive ``gamma`` of every step; nan where not computed."""
    tokens: Callable[[], TokenSet]
    """The tokens as they are now."""
    state: Callable[[], TrainState]
    """All that the next step depends on, as it stood after this one, whenever it is called."""


@dataclass(frozen=True)
class TrainResult:
    tokens: TokenSet
    history: Mapping[str, tuple[float, ...]]
    """Name of a loss -> its value at every step."""
    stopped: str
    """``"finished"``, ``"converged"`` (the probe no longer improved) or ``"stopped"`` (on request)."""
    steps: int
    seconds: float


def train(
    host: Host, cache: FeatureCache, tokens: TokenSet, config: TrainConfig = TrainConfig(), *,
    on_step: Callable[[StepInfo], object] | None = None, classes: Sequence[int] | None = None,
    resume: TrainState | None = None, processes: DistributedContext = SINGLE_PROCESS,
) -> TrainResult:  # fmt: skip
    """Learn token vectors; the model stays frozen.

    Each step encodes one random template of each class once, which serves both terms: its context conditions the
    denoiser on a class-balanced batch of noised latents (L_ldm), and its pooled feature is classified against one random
    image feature of every class (L_cls).

    Nothing in a step waits for the device, so that the next batch is drawn while it works. (Models may: ComfyUI's
    SDXL copies the image's size from the CPU in each call.)

    Args:
        host: lends text encoder and denoiser, and for gamma > 0 a CLIP space.
        cache: the examples; its classes are the tokens' in the same order.
        tokens: where to start from.
        config: settings.
        on_step: called after every step; may raise ``StopTraining``. Any other exception passes through.
        classes: train only these classes' vectors; the others keep theirs and serve as negatives.
        resume: go on from here, with the same examples, tokens and settings, as if there had been no break.
        processes: all of which call this with the same arguments. Each draws the same batch and sends its share of it
            through the denoiser; all learn the same.

    Returns:
        The learned tokens, also when stopped by ``StopTraining`` or Ctrl-C.

    Raises:
        TrainingError: a loss that is not finite, some steps ago at most; the last finite tokens are in its ``tokens``.
        ConfigError, HostError: settings, cache, tokens and host do not fit together; or the host overwrites what gradients
            are computed from.
    """
    active = torch.arange(len(tokens)) if classes is None else torch.tensor(sorted(classes), dtype=torch.long)
    check_training(host, cache, tokens, config, active.tolist())
    if config.reconstruction and config.batch < processes.count:
        raise ConfigError(f"{processes.count} processes need a batch of as many images at least, got {config.batch}")
    started, stopped, best = time.monotonic(), "finished", EarlyStopping(config.patience)
    generator = torch.Generator().manual_seed(config.seed)
    own_generator = torch.Generator().manual_seed(config.seed)  # L_cls's: so that gamma does not change L_ldm's draws
    batches = ClassBalancedBatchSampler(cache.labels, active.tolist(), config.batch, generator)
    total, parts = config.warm_start + config.steps, ("text", "denoiser") if config.reconstruction else ("text",)

    with host.session(*parts, gradients=True, checkpointing=config.gradient_checkpointing), torch.enable_grad():
        vectors = {name: Parameter(v[active].clone().to(host.device)) for name, v in tokens.vectors.items()}
        templates = {
            name: template_prompts(encoder, config.templates, tokens.vectors_per_token)
            for name, encoder in host.text.items()
        }
        optimizer = torch.optim.AdamW(
            vectors.values(), lr=config.lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=config.weight_decay
        )
        norms = {}
        if config.keep_norm:
            norms = {name: vocabulary_norm(encoder, host.device) for name, encoder in host.text.items()}
        prompts_at_once = (config.micro_batch or config.batch) if config.gradient_checkpointing else 0
        captions = None
        if config.reconstruction and cache.captions:
            captions = CaptionPrompts(host, cache.captions, config.templates, tokens.vectors_per_token)
        history = History(vectors)
        probe = None
        if config.probe_every and config.reconstruction:
            probe = ValidationLoss(
                host, cache, active, templates, at_once=config.micro_batch or config.batch, processes=processes
            )
        begun = run_identity(host, cache, tokens, config, active)
        adaptive = AdaptiveGamma(config.gradient_ratio, host.device) if config.adaptive else None
        progress = Progress(
            begun, history, vectors, optimizer, (generator, own_generator), batches, best, adaptive, total
        )
        if resume is not None:
            progress.restore(resume)

        def learned(vectors: Mapping[str, Tensor] = vectors) -> TokenSet:
            return _learned(tokens, vectors, active, cache, config, host, history)

        def look() -> None:
            """Wait for the device; read the losses, and raise if a number was not finite."""
            history.read()
            if history.broken is not None:
                raise _not_finite(history.broken, learned(history.finite))

        def after_a_look(give: Callable[[], _T]) -> Callable[[], _T]:
            def call() -> _T:
                look()
                return give()

            return call

        first = len(history)
        losses_so_far, tokens_so_far, asked = after_a_look(history.columns), after_a_look(learned), False
        try:
            for step in range(first, total):
                if probe is not None and _look_is_due(step, config) and best.is_over(probe.error(vectors)):
                    stopped = "converged"
                    break
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(config, step)
                images = next(batches)
                gamma = 1.0 if config.adaptive else gamma_of_step(config, step)
                labels = cache.labels[images]
                share = processes.share(config.batch if config.reconstruction and step >= config.warm_start else 0)
                drawn = labels[share].unique()
                chosen = _classes_of_step(labels, active, config.text_classes, own_generator) if gamma else drawn

                verify = host.moves_weights and (step == config.warm_start or (step - first) % _VERIFY_EVERY == 0)
                optimizer.zero_grad()
                with saved_tensors_verified() if verify else nullcontext():
                    prompts = encode_classes(
                        host, templates, vectors, active, chosen, drawn if captions is None else drawn[:0],
                        config.pooling, generator, at_once=prompts_at_once,
                    )  # fmt: skip
                    terms: dict[str, Tensor] = {}  # this process's parts of them
                    if share.start < share.stop:
                        if captions is None:
                            text = prompts.context(labels[share])
                        else:
                            places = torch.searchsorted(active, labels)
                            text = captions.encode(images, share, places, vectors, generator, prompts_at_once)
                        errors = reconstruction_loss(
                            host, cache, images, text, generator, micro_batch=config.micro_batch, share=share
                        )
                        terms["reconstruction"] = errors.sum() / config.batch
                    if gamma:
                        losses = discriminative_loss(host, cache, prompts, config, own_generator)
                        terms["classification"] = losses.mean() / processes.count
                    if adaptive is not None and "reconstruction" in terms:
                        adaptive.backward(terms, config.reconstruction, vectors, processes)
                    else:
                        weights = {"reconstruction": config.reconstruction, "classification": gamma}
                        terms["loss"] = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
                        terms["loss"].backward(inputs=list(vectors.values()))  # not into weights that are not frozen
                        processes.all_reduce_sum([*gradients(vectors), *terms.values()])
                history.add(terms)
                optimizer.step()
                if config.keep_norm:
                    rescale_(vectors, norms)

                if on_step is not None:
                    info = StepInfo(step + 1, total, losses_so_far, tokens_so_far, after_a_look(progress.keeper()))
                    asked |= _asks_to_stop(on_step, info)
                time_to_look = (step + 1) % _READ_EVERY == 0
                if time_to_look:
                    look()
                if (time_to_look or processes.count == 1) and processes.any(asked):
                    stopped = "stopped"
                    break
        except KeyboardInterrupt:
            stopped = "stopped"
        look()
        return TrainResult(learned(), history.columns(), stopped, len(history), time.monotonic() - started)


def _classes_of_step(labels: Tensor, active: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """(S,) ascending: the batch's classes, and random others of the active ones up to ``most`` in all."""
    own = labels.unique()
    others = active[~torch.isin(active, own)]
    room = max(0, most - len(own))
    return torch.cat([own, others[torch.randperm(len(others), generator=generator)[:room]]]).sort().values


def _look_is_due(step: int, config: TrainConfig) -> bool:
    """After so many steps; the warm start is not looked at."""
    return step > config.warm_start and step % config.probe_every == 0


def _learned(
    tokens: TokenSet, vectors: Mapping[str, Tensor], active: Tensor, cache: FeatureCache, config: TrainConfig, host: Host,
    history: History,
) -> TokenSet:  # fmt: skip
    merged = {name: v.clone() for name, v in tokens.vectors.items()}
    for name, parameter in vectors.items():
        merged[name][active] = parameter.detach().float().cpu()
    shots = int(torch.bincount(cache.labels).min())
    trained = {**config.describe(), "shots": shots, "base_fingerprint": host.fingerprint}
    used = {"captions": bool(cache.captions), "masks": cache.masks is not None, "buckets": cache.sizes is not None}
    trained |= {name: True for name, value in used.items() if value}
    if history.rows and math.isfinite(history.rows[-1]["gamma"]):
        trained["gamma_last"] = history.rows[-1]["gamma"]
    return replace(
        tokens, vectors=merged,
        templates=config.templates, pooling=config.pooling, base_model=host.name, training=trained, support=cache.support(),
    )  # fmt: skip


def run_identity(
    host: Host, cache: FeatureCache, tokens: TokenSet, config: TrainConfig, active: Tensor | None = None
) -> dict[str, str]:
    """What a training is of; of two that differ in nothing here, one can go on where the other stopped.

    Args:
        active: (A,) int64 the classes in training; all of them by default.
    """
    active = torch.arange(len(tokens)) if active is None else active
    first = b"".join(v[active].numpy().tobytes() for v in tokens.vectors.values())
    return {
        "model": host.fingerprint or host.name,
        "set of examples": cache.fingerprint,
        "set of first tokens": f"{active.tolist()} {hashlib.sha256(first).hexdigest()}",
        **{name: repr(value) for name, value in config.describe().items() if name not in _FOR_MEMORY},
    }


def _not_finite(step: int, last: TokenSet) -> TrainingError:
    return TrainingError(
        f"the loss of step {step + 1} is not a finite number; try a lower learning rate or a wider number format", last
    )


def _asks_to_stop(on_step: Callable[[StepInfo], object], seen: StepInfo) -> bool:
    try:
        on_step(seen)
    except StopTraining:
        return True
    return False
