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

from mcti_core.hosts.base import TextFeatures

from .live_bytes import LiveBytes

__all__ = ["Border"]

register_dataclass(TextFeatures, field_names=["context", "hidden", "pooled"])


class Border:
    """Border between real tensors and tensors without data.

    Args:
        tracker: counts tensors on both sides.
    """

    def __init__(self, tracker: LiveBytes):
        self.tracker, self.fake = tracker, FakeTensorMode(allow_non_fake_inputs=True)

    @contextmanager
    def beyond(self) -> Iterator[None]:
        """Context in which new tensors have no data."""
        # inference mode would hide the inner operations of composite ones
        with torch.inference_mode(False), self.fake, self.tracker:
            yield

    def across(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Run ``function`` beyond the border: results have the right shapes and contain zeros.

        The same applies to gradients, whose cost is counted too.
        """

        def called(*args: Any, **kwargs: Any) -> Any:
            leaves, form = tree_flatten((args, kwargs))
            inputs = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
            result: list[Any] = []

            def inside(twins: Sequence[Tensor]) -> list[Tensor]:
                positional, named = tree_unflatten(_with(leaves, twins), form)
                result[:] = tree_flatten(function(*positional, **named))
                return [leaf for leaf in result[0] if isinstance(leaf, Tensor)]

            wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs)
            outputs = _Crossing.apply(self, inside, wanted, *inputs)
            return tree_unflatten(_with(result[0], outputs), result[1])

        return called

    def twin(self, tensor: Tensor, gradient: bool = False) -> Tensor:
        """The same tensor beyond the border, which is not counted again."""
        made = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
        self.tracker.leave_out(made)
        return made.requires_grad_(gradient)


class _Crossing(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, border: Border, inside: Callable[[Sequence[Tensor]], list[Tensor]], wanted: bool, *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        with border.beyond(), torch.set_grad_enabled(wanted):
            twins = [border.twin(tensor, wanted and tensor.requires_grad) for tensor in inputs]
            outputs = inside(twins)
        if wanted:
            ctx.border, ctx.twins, ctx.outputs = border, twins, outputs
        real = tuple(torch.zeros(output.shape, dtype=output.dtype) for output in outputs)
        ctx.mark_non_differentiable(*(tensor for tensor in real if not tensor.is_floating_point()))
        return real

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> tuple[Tensor | None, ...]:
        known = [(x, g) for x, g in zip(ctx.outputs, upstream, strict=True) if g is not None and x.requires_grad]
        asked = [twin for twin in ctx.twins if twin.requires_grad]
        with ctx.border.beyond():
            outputs, weights = [x for x, _ in known], [ctx.border.twin(g) for _, g in known]
            again = (
                torch._C._autograd._get_current_graph_task_keep_graph()
            )  # whether this graph is gone through once more
            found = torch.autograd.grad(outputs, asked, weights, retain_graph=again, allow_unused=True)
        shapes = iter([None if g is None else (g.shape, g.dtype) for g in found])
        of_inputs = [next(shapes) if twin.requires_grad else None for twin in ctx.twins]
        return None, None, None, *(None if of is None else torch.zeros(of[0], dtype=of[1]) for of in of_inputs)


def _with(leaves: Sequence[Any], tensors: Sequence[Tensor]) -> list[Any]:
    """The leaves, with tensors replaced in order."""
    new = iter(tensors)
    return [next(new) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
