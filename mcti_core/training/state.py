"""The state of a training: everything that its next step depends on."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Parameter

from ..data.samplers import ClassBalancedBatchSampler
from ..errors import ConfigError, ResumeError
from ..files.limits import MAX_NUMBER, MAX_STEPS
from .adaptive_gamma import AdaptiveGamma
from .early_stopping import EarlyStopping
from .history import TERMS, History
from .resume import differences

__all__ = ["Progress", "TrainState"]

_MAX_NORM, _MAX_LOSS = 1e12, 1e30
"""The second also limits gamma, which is large if the classification term has no gradient."""
_MIN_MEAN = 1e-15
"""Averages below this have squares that are 0 in float32."""
_MEAN_BY_ROOT = 8.0
"""Upper bound of AdamW's first moment divided by the root of its second, which is at most
(1 - b1) / sqrt((1 - b2) (1 - b1^2 / b2)) = 7.3 by the Cauchy-Schwarz inequality, for betas b1 = 0.9 and b2 = 0.999."""

_WORDS, _NORMALS, _MAX_NORMAL = 624, 5016, 10.0
"""A Mersenne Twister's state as PyTorch stores it: number of words, offset of the next normal numbers, and their largest value
(8.6 for 53 random bits)."""


@dataclass(frozen=True)
class TrainState:
    """The state after a step; it is a copy that does not change."""

    identity: Mapping[str, str]
    """Identity of the training: examples, initial tokens, settings. Only a training with the same identity can continue."""
    history: tuple[Mapping[str, float], ...]
    """Losses of every step."""
    vectors: Mapping[str, Tensor]
    """Encoder -> vectors of the classes in training."""
    moments: Mapping[int, Mapping[str, Tensor]]
    """Parameter -> AdamW's moments."""
    generators: tuple[Tensor, ...]
    batches: Mapping[str, Sequence[int]]
    best: tuple[float, int]
    """The smallest validation loss, and the number of evaluations without improvement."""
    gradient_norms: Tensor | None = None
    """``AdaptiveGamma.norms``, if gamma is adaptive."""

    @property
    def step(self) -> int:
        """Number of finished steps."""
        return len(self.history)


@dataclass(frozen=True)
class Progress:
    """The parts of a running training that change from step to step."""

    identity: Mapping[str, str]
    total: int
    """Number of steps of the whole training."""
    history: History
    vectors: Mapping[str, Parameter]
    optimizer: torch.optim.Optimizer
    generators: tuple[torch.Generator, ...]
    batches: ClassBalancedBatchSampler
    early_stopping: EarlyStopping
    adaptive_gamma: AdaptiveGamma | None

    def snapshot(self) -> Callable[[], TrainState]:
        """Take a snapshot of the state, which later steps do not change.

        Tensors are copied on their device. The returned function copies them to the CPU, which waits for the device.
        """
        steps, best = len(self.history), (self.early_stopping.best_loss, self.early_stopping.wait_count)
        generators, batches = tuple(generator.get_state() for generator in self.generators), self.batches.state()
        vectors = {name: vector.detach().clone() for name, vector in self.vectors.items()}
        adamw = self.optimizer.state_dict()["state"]
        moments = {i: {name: value.clone() for name, value in moment.items()} for i, moment in adamw.items()}
        # replaced in each step, never changed in place
        norms = None if self.adaptive_gamma is None else self.adaptive_gamma.norms

        def read() -> TrainState:
            self.history.read()
            return TrainState(
                identity=self.identity,
                history=tuple(dict(row) for row in self.history.rows[:steps]),
                vectors={name: _copy(vector) for name, vector in vectors.items()},
                moments={i: {name: _copy(value) for name, value in moment.items()} for i, moment in moments.items()},
                generators=generators,
                batches=batches,
                best=best,
                gradient_norms=None if norms is None else _copy(norms),
            )

        return read

    def restore(self, state: TrainState) -> None:
        """Continue from a state.

        Raises:
            ConfigError: the state is of a training with other examples, initial tokens or settings.
            ResumeError: its content is inconsistent.
        """
        if differing := differences(state.identity, self.identity):
            raise ConfigError(f"the stopped training cannot be resumed: different {', '.join(differing)}")
        try:
            self._check(state)
            self._restore(state)
        except (ValueError, LookupError, TypeError, RuntimeError) as error:
            raise ResumeError(f"the stopped training cannot be resumed: its content does not fit ({error})") from error

    def _check(self, state: TrainState) -> None:
        """Check the values that would otherwise fail in a later step. Raises: ValueError."""
        if len(state.history) > self.total:
            raise ValueError(f"it has {len(state.history):,} steps of {self.total:,}")
        if any(row.keys() != set(TERMS) for row in state.history):
            raise ValueError("its losses have other names")
        if any(math.isnan(row["loss"]) or any(abs(loss) > _MAX_LOSS for loss in row.values()) for row in state.history):
            raise ValueError(f"it has steps without a loss, or with one beyond {_MAX_LOSS:g}")
        if not (state.best[0] >= 0 and 0 <= state.best[1] <= MAX_STEPS):
            raise ValueError("its smallest validation loss is not a number")
        if not all(map(_is_generator_state, state.generators)):
            raise ValueError("its random generators have states that no generator has")
        norms = {} if state.gradient_norms is None else {"norms": state.gradient_norms}
        expected = {} if self.adaptive_gamma is None else {"norms": torch.Size([3])}
        if not _are_float32(norms, expected, _MAX_NORM) or any((norm < 0).any() for norm in norms.values()):
            raise ValueError("its gradient norms are not three norms of an adaptive gamma")
        shapes = {name: vector.shape for name, vector in self.vectors.items()}
        if not _are_float32(state.vectors, shapes, MAX_NUMBER):
            raise ValueError(
                f"its vectors have other shapes, or numbers that are not finite or beyond {MAX_NUMBER:,.0f}"
            )
        sizes = dict(enumerate(shapes.values()))
        for index, moment in state.moments.items():
            expected = {"step": torch.Size(), "exp_avg": sizes[index], "exp_avg_sq": sizes[index]}
            if not _are_float32(moment, expected, torch.finfo(torch.float32).max):
                raise ValueError("its moments are of another optimizer, have other shapes, or are not finite")
            mean, square = moment["exp_avg"].abs(), moment["exp_avg_sq"]
            possible = (square >= 0).all() and (mean <= _MEAN_BY_ROOT * square.sqrt() + _MIN_MEAN).all()
            if not (possible and 0 <= moment["step"] <= MAX_STEPS):
                raise ValueError("its moments are not possible ones of AdamW")

    def _restore(self, state: TrainState) -> None:
        with torch.no_grad():
            for name, vector in self.vectors.items():
                vector.copy_(state.vectors[name])
        # copies, since the optimizer changes its moments in place
        moments = {i: {name: _copy(value) for name, value in moment.items()} for i, moment in state.moments.items()}
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        for generator, generator_state in zip(self.generators, state.generators, strict=True):
            generator.set_state(generator_state)
        self.history.rows[:] = [dict(row) for row in state.history]
        if self.adaptive_gamma is not None and state.gradient_norms is not None:
            self.adaptive_gamma.norms = state.gradient_norms.to(self.adaptive_gamma.norms)
        self.batches.restore(state.batches)
        self.early_stopping.best_loss, self.early_stopping.wait_count = state.best


def _is_generator_state(state: Tensor) -> bool:
    """Whether a CPU generator can have this state; PyTorch accepts positions from which it reads beyond the state."""
    if state.dtype != torch.uint8 or state.shape != torch.Generator().get_state().shape:
        return False
    content = state.numpy().tobytes()
    _, left, _, position = struct.unpack_from("<QiiQ", content)
    normals = (*struct.unpack_from("<3d", content, _NORMALS), *struct.unpack_from("<f", content, _NORMALS + 32))
    in_place = 0 < left <= _WORDS and left + position == _WORDS + 1
    return (in_place or (left, position) == (1, 0)) and all(abs(normal) <= _MAX_NORMAL for normal in normals)


def _are_float32(tensors: Mapping[str, Tensor], shapes: Mapping[str, torch.Size], bound: float) -> bool:
    """Whether the tensors have these names and shapes, and values from -bound to bound."""
    return {name: tensor.shape for name, tensor in tensors.items()} == shapes and all(
        tensor.dtype == torch.float32 and bool((tensor.abs() <= bound).all()) for tensor in tensors.values()
    )


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().clone()
