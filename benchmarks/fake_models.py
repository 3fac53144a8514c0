"""Run the library with models that have shapes but no data, to find their cost without computing.

Only the inside of a model is skipped. Around it the unchanged library computes with real tensors, reads values and decides as
usual.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import register_dataclass, tree_flatten, tree_unflatten

from mcti_core.hosts.features import TextFeatures

from .memory_tracker import MemoryTracker

__all__ = ["FakeTensors"]

register_dataclass(TextFeatures, field_names=["context", "hidden", "pooled"])


class FakeTensors:
    """Runs parts of a program on tensors without data, and the rest on real ones.

    Args:
        tracker: counts both kinds of tensors.
    """

    def __init__(self, tracker: MemoryTracker):
        self.tracker, self.fake = tracker, FakeTensorMode(allow_non_fake_inputs=True)

    @contextmanager
    def enabled(self) -> Iterator[None]:
        """Context in which new tensors have no data."""
        # inference mode would hide the inner operations of composite ones
        with torch.inference_mode(False), self.fake, self.tracker:
            yield

    def faked(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function run on tensors without data: its results have the right shapes and contain zeros.

        The same applies to gradients, whose cost is counted too.
        """

        def called(*args: Any, **kwargs: Any) -> Any:
            leaves, form = tree_flatten((args, kwargs))
            inputs = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
            result: list[Any] = []

            def inside(copies: Sequence[Tensor]) -> list[Tensor]:
                positional, named = tree_unflatten(_with(leaves, copies), form)
                result[:] = tree_flatten(function(*positional, **named))
                return [leaf for leaf in result[0] if isinstance(leaf, Tensor)]

            wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
            outputs = _FakeCall.apply(self, inside, wanted, *inputs)
            return tree_unflatten(_with(result[0], outputs), result[1])

        return called

    def fake_copy(self, tensor: Tensor, gradient: bool = False) -> Tensor:
        """A copy without data, which is not counted again."""
        copy = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
        self.tracker.leave_out(copy)
        return copy.requires_grad_(gradient)


class _FakeCall(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, fakes: FakeTensors, inside: Callable[[Sequence[Tensor]], list[Tensor]], wanted: bool, *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        with fakes.enabled(), torch.set_grad_enabled(wanted):
            copies = [fakes.fake_copy(tensor, wanted and tensor.requires_grad) for tensor in inputs]
            outputs = inside(copies)
        if wanted:
            ctx.fakes, ctx.copies, ctx.outputs = fakes, copies, outputs
        real = tuple(torch.zeros(output.shape, dtype=output.dtype) for output in outputs)
        ctx.mark_non_differentiable(*(tensor for tensor in real if not tensor.is_floating_point()))
        return real

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        known = [(x, g) for x, g in zip(ctx.outputs, upstream, strict=True) if g is not None and x.requires_grad]
        asked = [copy for copy in ctx.copies if copy.requires_grad]
        with ctx.fakes.enabled():
            outputs, weights = [x for x, _ in known], [ctx.fakes.fake_copy(g) for _, g in known]
            # whether backward will run through this graph again
            again = torch._C._autograd._get_current_graph_task_keep_graph()
            found = torch.autograd.grad(outputs, asked, weights, retain_graph=again, allow_unused=True)
        shapes = iter([None if g is None else (g.shape, g.dtype) for g in found])
        of_inputs = [next(shapes) if copy.requires_grad else None for copy in ctx.copies]
        return None, None, None, *(None if of is None else torch.zeros(of[0], dtype=of[1]) for of in of_inputs)


def _with(leaves: Sequence[Any], tensors: Sequence[Tensor]) -> list[Any]:
    """The leaves, with tensors replaced in order."""
    new = iter(tensors)
    return [next(new) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
