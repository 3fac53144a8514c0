"""Train token vectors: textual inversion of all classes at once, with a classification term.

``train`` prepares a training and runs its steps; ``step.py`` is one step, ``objective.py`` draws the batches of both loss
terms, ``mcti_core/losses.py`` has their formulas, and ``state.py`` all that changes from step to step.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor
from torch.nn import Parameter

from ..data.feature_cache import FeatureCache
from ..data.samplers import ClassBalancedBatchSampler
from ..distributed import SINGLE_PROCESS, DistributedContext
from ..hosts.base import Host
from ..tokens.token_set import TokenSet
from .adaptive_gamma import AdaptiveGamma
from .checks import check_training
from .config import TrainConfig
from .early_stopping import EarlyStopping, ValidationLoss
from .errors import StopTraining, TrainingError
from .history import History
from .less_memory import with_less_memory
from .resume import run_identity
from .state import Progress, TrainState
from .step import TrainStep

__all__ = ["StepInfo", "TrainResult", "train"]

_READ_EVERY = 16
"""Number of steps between reads of the losses, each of which waits for the device. At the same steps, several processes
agree on whether to stop, since all must leave the loop after the same step."""


@dataclass(frozen=True)
class StepInfo:
    """The argument of ``on_step``. Its functions wait for the device, so do not call them at every step.

    They raise ``TrainingError`` if a loss was not finite.
    """

    step: int
    """Number of finished steps, including those of ``classification_only_steps``, of ``total``."""
    total: int
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

    Each step encodes one random template for each of S classes once, for both terms: those of a class-balanced batch, and
    others up to ``max_classes_per_step``. L_ldm: the prompts' contexts condition the denoiser on the batch's noised latents
    (images with captions use theirs instead). L_cls: the text features and one random image feature of each of all C classes
    have (S, C) logits, of which ``direction`` chooses the softmax axis. If memory runs out, training continues from the last
    finished step with smaller parts of a batch at a time (``less_memory.py``).

    Args:
        host: has text encoders and a denoiser, and for gamma > 0 a CLIP space.
        cache: the examples; its classes are those of the initial tokens, in the same order.
        on_step: called after every step; may raise ``StopTraining``. Other exceptions pass through.
        classes: train only these classes' vectors; the others do not change. Their images are negatives in the directions
            ``text_to_image`` and ``symmetric``, and unused in ``image_to_text``.
        resume: a state to continue from, with the same examples, initial tokens and settings. The result is bit-identical
            to a training without the interruption on a CPU, and the same up to rounding on a GPU.
        processes: all processes must call this with the same arguments. Each draws the same batch and computes its share
            of it; all get the same result.

    Returns:
        The learned tokens, also after ``StopTraining`` or Ctrl-C.

    Raises:
        TrainingError: a loss is not finite, which is noticed at most 16 steps later; ``tokens`` of the error has the last
            finite ones.
        ConfigError, TokenError: settings, cache, tokens and host do not fit together.
        HostError: the host does not have a model that the settings need, or overwrites tensors that gradients are
            computed from; or a single image does not fit into memory.
    """
    active = torch.arange(len(tokens)) if classes is None else torch.tensor(sorted(classes), dtype=torch.long)
    check_training(host, cache, tokens, config, active.tolist(), processes.count)
    attempt = partial(_train, host, cache, tokens, active, processes)
    return with_less_memory(attempt, config, on_step, resume, processes.count)


def _train(
    host: Host, cache: FeatureCache, tokens: TokenSet, active: Tensor, processes: DistributedContext,
    config: TrainConfig, on_step: Callable[[StepInfo], object], resume: TrainState | None,
) -> TrainResult:  # fmt: skip
    started, stop_reason, stop_requested = time.monotonic(), "max_steps", False
    models = ("text", "denoiser") if config.reconstruction_weight else ("text",)
    with host.session(*models, gradients=True, checkpointing=config.gradient_checkpointing), torch.enable_grad():
        progress = _first_state(host, cache, tokens, active, config)
        if resume is not None:
            progress.restore(resume)
        take_step = TrainStep(host, cache, tokens, active, config, progress, processes)
        validation = None
        if config.eval_steps and config.reconstruction_weight:
            size = config.micro_batch_size or config.batch_size
            validation = ValidationLoss(host, cache, active, take_step.templates, batch_size=size, processes=processes)
        early_stopping = progress.early_stopping
        results = _Results(progress, _with_record(tokens, host, cache, config), active)
        try:
            for step in range(len(progress.history), progress.total):
                evaluates = step > config.classification_only_steps and step % (config.eval_steps or 1) == 0
                if validation and evaluates and early_stopping.should_stop(validation.error(progress.vectors)):
                    stop_reason = "early_stop"
                    break
                take_step(step)
                try:
                    on_step(StepInfo(step + 1, progress.total, results.history, results.tokens, results.snapshot()))
                except StopTraining:
                    stop_requested = True
                reads = (step + 1) % _READ_EVERY == 0
                if reads:
                    results.check()
                if (reads or processes.count == 1) and processes.any(stop_requested):  # several agree after reads only
                    stop_reason = "interrupted"
                    break
        except KeyboardInterrupt:
            stop_reason = "interrupted"
        learned, history = results.tokens(), results.history()
        return TrainResult(learned, history, stop_reason, len(progress.history), time.monotonic() - started)


def _first_state(host: Host, cache: FeatureCache, tokens: TokenSet, active: Tensor, config: TrainConfig) -> Progress:
    vectors = {name: Parameter(v[active].clone().to(host.device)) for name, v in tokens.vectors.items()}
    optimizer = torch.optim.AdamW(
        vectors.values(), lr=config.lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=config.weight_decay
    )
    # The second draws the images of L_cls, so that gamma does not change what the first draws: batches, prompts, noise.
    generators = tuple(torch.Generator().manual_seed(config.seed) for _ in range(2))
    return Progress(
        identity=run_identity(host, cache, tokens, config, active),
        total=config.classification_only_steps + config.steps,
        history=History(vectors),
        vectors=vectors,
        optimizer=optimizer,
        generators=generators,
        batches=ClassBalancedBatchSampler(cache.labels, active.tolist(), config.batch_size, generators[0]),
        early_stopping=EarlyStopping(config.patience),
        adaptive_gamma=AdaptiveGamma(config.gradient_ratio, host.device) if config.adaptive else None,
    )


def _with_record(tokens: TokenSet, host: Host, cache: FeatureCache, config: TrainConfig) -> TokenSet:
    """The initial tokens with the record of this training."""
    used = {"captions": bool(cache.captions), "masks": cache.masks is not None, "buckets": cache.sizes is not None}
    training = {
        **config.describe(),
        "shots": int(torch.bincount(cache.labels).min()),
        "base_fingerprint": host.fingerprint,
    }
    training |= {name: True for name, value in used.items() if value}
    tokens = replace(tokens, templates=config.templates, pooling=config.pooling, base_model=host.name)
    return replace(tokens, training=training, support=cache.support())


@dataclass(frozen=True)
class _Results:
    """Reads losses, tokens and states of a running training from the device, and checks that they are finite."""

    progress: Progress
    initial: TokenSet
    active: Tensor

    def check(self) -> None:
        """Wait for the device; raise a ``TrainingError`` if a number was not finite."""
        history = self.progress.history
        history.read()
        step = history.first_nonfinite_step
        if step is not None:
            message = f"the loss of step {step + 1} is not a finite number; try a lower learning rate or a wider number format"
            raise TrainingError(message, self._tokens(history.last_finite))

    def history(self) -> dict[str, tuple[float, ...]]:
        self.check()
        return self.progress.history.columns()

    def tokens(self) -> TokenSet:
        self.check()
        return self._tokens(self.progress.vectors)

    def snapshot(self) -> Callable[[], TrainState]:
        """A function that reads the state after this step; it can be called after later steps."""
        return partial(self._state, self.progress.snapshot())

    def _state(self, snapshot: Callable[[], TrainState]) -> TrainState:
        self.check()
        return snapshot()

    def _tokens(self, vectors: Mapping[str, Tensor]) -> TokenSet:
        merged = {name: v.clone() for name, v in self.initial.vectors.items()}
        for name, vector in vectors.items():
            merged[name][self.active] = vector.detach().float().cpu()
        rows = self.progress.history.rows
        gamma = {"gamma_last": rows[-1]["gamma"]} if rows and math.isfinite(rows[-1]["gamma"]) else {}
        return replace(self.initial, vectors=merged, training={**self.initial.training, **gamma})
