"""Train token vectors: textual inversion of all classes at once, with a classification term.

``train`` prepares a training and runs its steps; ``step.py`` is one step, ``objective.py`` draws the batches of both loss
terms, ``losses.py`` has their formulas, and ``state.py`` all that changes from step to step.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
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
from ..prompts.splicing import host_templates
from ..tokens.token_set import TokenSet
from .adaptive_gamma import AdaptiveGamma
from .caption_prompts import CaptionPrompts
from .config import TrainConfig
from .early_stopping import EarlyStopping, ValidationLoss
from .errors import StopTraining, TrainingError
from .history import History
from .oom import with_less_memory
from .state import Progress, TrainState
from .step import TrainStep
from .validation import check_training
from .vector_norms import vocabulary_norm

__all__ = ["StepInfo", "TrainResult", "run_identity", "train"]

_T = TypeVar("_T")
_READ_EVERY = 16
"""Number of steps between reads of the losses, each of which waits for the device. At the same steps, several processes
agree on whether to stop, since all must leave the loop after the same step."""
_FOR_MEMORY = ("micro_batch_size", "gradient_checkpointing")
"""Settings that change what fits into memory, not what is learned."""


@dataclass(frozen=True)
class StepInfo:
    """The argument of ``on_step``. Its functions wait for the device, so do not call them at every step.

    They raise ``TrainingError`` if a loss was not finite.
    """

    step: int
    """Number of finished steps, including those of ``classification_only_steps``."""
    total: int
    """Number of all steps."""
    history: Callable[[], Mapping[str, tuple[float, ...]]]
    """Returns ``loss``, ``reconstruction``, ``classification`` and an adaptive ``gamma`` of every step; NaN if not computed."""
    tokens: Callable[[], TokenSet]
    """Returns the current tokens."""
    state: Callable[[], TrainState]
    """Returns the state after this step, also if it is called later."""


@dataclass(frozen=True)
class TrainResult:
    tokens: TokenSet
    history: Mapping[str, tuple[float, ...]]
    """Name of a loss -> its value at every step."""
    stop_reason: str
    """``"max_steps"``, ``"early_stop"`` (the evaluated loss no longer improved) or ``"interrupted"`` (on request)."""
    steps: int
    seconds: float


def train(
    host: Host, cache: FeatureCache, tokens: TokenSet, config: TrainConfig = TrainConfig(), *,
    on_step: Callable[[StepInfo], object] | None = None, classes: Sequence[int] | None = None,
    resume: TrainState | None = None, processes: DistributedContext = SINGLE_PROCESS,
) -> TrainResult:  # fmt: skip
    """Learn token vectors; the model stays frozen.

    Each step encodes one random template for each of up to ``max_classes_per_step`` classes once, for both terms: its
    context conditions the denoiser on a class-balanced batch of noised latents (L_ldm; images with captions use theirs
    instead), and its pooled feature is classified against one random image feature of every class (L_cls). If memory runs out, training continues from the last finished step with smaller parts of a
    batch at a time (``oom.py``).

    Args:
        host: provides text encoders and denoiser, and for gamma > 0 a CLIP space.
        cache: the examples; its classes are those of the tokens, in the same order.
        tokens: the initial tokens.
        config: settings.
        on_step: called after every step; may raise ``StopTraining``. Other exceptions pass through.
        classes: train only these classes' vectors; the others stay and serve as negatives.
        resume: a state to continue from, with the same examples, initial tokens and settings; the result is the same to
            the bit as without the interruption.
        processes: all processes must call this with the same arguments. Each draws the same batch and computes its share
            of it; all get the same result.

    Returns:
        The learned tokens, also after ``StopTraining`` or Ctrl-C.

    Raises:
        TrainingError: a loss is not finite, which is noticed at most 16 steps later; ``tokens`` of the error has the last
            finite ones.
        ConfigError: settings, cache, tokens and host do not fit together.
        HostError: the host does not have a model that the settings need, or overwrites tensors that gradients are
            computed from; or a single image does not fit into memory.
    """
    active = torch.arange(len(tokens)) if classes is None else torch.tensor(sorted(classes), dtype=torch.long)
    check_training(host, cache, tokens, config, active.tolist())
    if config.reconstruction_weight and config.batch_size < processes.count:
        raise ConfigError(
            f"{processes.count} processes need a batch of as many images at least, got {config.batch_size}"
        )

    def attempt(config: TrainConfig, on_step: Callable[[StepInfo], object], resume: TrainState | None) -> TrainResult:
        return _train(host, cache, tokens, config, active, on_step, resume, processes)

    return with_less_memory(attempt, config, on_step, resume, processes.count)


def _train(
    host: Host, cache: FeatureCache, tokens: TokenSet, config: TrainConfig, active: Tensor,
    on_step: Callable[[StepInfo], object], resume: TrainState | None, processes: DistributedContext,
) -> TrainResult:  # fmt: skip
    started, total = time.monotonic(), config.classification_only_steps + config.steps
    parts = ("text", "denoiser") if config.reconstruction_weight else ("text",)
    with host.session(*parts, gradients=True, checkpointing=config.gradient_checkpointing), torch.enable_grad():
        vectors = {name: Parameter(v[active].clone().to(host.device)) for name, v in tokens.vectors.items()}
        templates = host_templates(host, config.templates, tokens.vectors_per_token)
        optimizer = torch.optim.AdamW(
            vectors.values(), lr=config.lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=config.weight_decay
        )
        # The second draws the images of L_cls, so that gamma does not change what the first draws: batches, prompts, noise.
        generators = tuple(torch.Generator().manual_seed(config.seed) for _ in range(2))
        batches = ClassBalancedBatchSampler(cache.labels, active.tolist(), config.batch_size, generators[0])
        history, best = History(vectors), EarlyStopping(config.patience)
        adaptive = AdaptiveGamma(config.gradient_ratio, host.device) if config.adaptive else None
        identity = run_identity(host, cache, tokens, config, active)
        progress = Progress(identity, history, vectors, optimizer, generators, batches, best, adaptive, total)
        if resume is not None:
            progress.restore(resume)
        evaluation = None
        if config.eval_steps and config.reconstruction_weight:
            evaluation = ValidationLoss(
                host,
                cache,
                active,
                templates,
                at_once=config.micro_batch_size or config.batch_size,
                processes=processes,
            )
        lengths = {}
        if config.keep_norm:
            lengths = {name: vocabulary_norm(encoder, host.device) for name, encoder in host.text.items()}
        captions = None
        if config.reconstruction_weight and cache.captions:
            captions = CaptionPrompts(host, cache.captions, config.templates, tokens.vectors_per_token)
        take_step = TrainStep(
            host, cache, config, templates, captions, active, lengths, progress, processes, first=len(history)
        )

        def learned(vectors: Mapping[str, Tensor] = vectors) -> TokenSet:
            return _learned(tokens, vectors, active, cache, config, host, history)

        def read_losses() -> None:
            """Wait for the device; raise a ``TrainingError`` if a number was not finite."""
            history.read()
            if history.first_nonfinite_step is not None:
                raise _not_finite(history.first_nonfinite_step, learned(history.last_finite))

        def after_reading(call: Callable[[], _T]) -> Callable[[], _T]:
            def read_and_call() -> _T:
                read_losses()
                return call()

            return read_and_call

        losses_so_far, tokens_so_far = after_reading(history.columns), after_reading(learned)
        stop_reason, asked = "max_steps", False
        try:
            for step in range(take_step.first, total):
                if (
                    evaluation is not None
                    and _evaluation_is_due(step, config)
                    and best.is_over(evaluation.error(vectors))
                ):
                    stop_reason = "early_stop"
                    break
                take_step(step)
                state = after_reading(progress.snapshot())
                asked |= _asks_to_stop(on_step, StepInfo(step + 1, total, losses_so_far, tokens_so_far, state))
                reads = (step + 1) % _READ_EVERY == 0
                if reads:
                    read_losses()
                if (reads or processes.count == 1) and processes.any(asked):  # several agree after reads only
                    stop_reason = "interrupted"
                    break
        except KeyboardInterrupt:
            stop_reason = "interrupted"
        read_losses()
        return TrainResult(learned(), history.columns(), stop_reason, len(history), time.monotonic() - started)


def _evaluation_is_due(step: int, config: TrainConfig) -> bool:
    return step > config.classification_only_steps and step % config.eval_steps == 0


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
    """Everything that a training's result depends on, by name. A training can only continue one with the same identity.

    Args:
        active: (A,) int64, the classes in training; by default all.
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


def _asks_to_stop(on_step: Callable[[StepInfo], object], info: StepInfo) -> bool:
    try:
        on_step(info)
    except StopTraining:
        return True
    return False
