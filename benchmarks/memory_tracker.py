"""Count the bytes of all live tensors while code runs, also of tensors that have shapes but no data."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

__all__ = ["MemoryTracker", "gpu_workspace"]

Workspace = Callable[[Any, list[Tensor], list[Tensor]], int]
"""(operation, input tensors, output tensors) -> bytes of workspace that its kernel uses while it runs."""


class MemoryTracker(TorchDispatchMode):
    """Inside ``with``, ``now`` is the number of live bytes and ``peak`` its maximum.

    A storage counts from the first operation that uses or creates it until nothing refers to it, once for all of its
    views. This is the memory of an allocator without rounding or gaps.

    Args:
        workspace: bytes of workspace per operation; none by default.
    """

    def __init__(self, workspace: Workspace | None = None):
        super().__init__()
        self.now = self.peak = 0
        self._workspace, self._inside = workspace, False
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}  # by address
        self._sizes: dict[int, int] = {}

    def hold(self, tensors: Iterable[Tensor]) -> None:
        """Count these tensors, for example weights that are not used yet."""
        for storage in (tensor.untyped_storage() for tensor in tensors):
            self._see(storage, storage.nbytes())
        self.peak = max(self.peak, self.now)

    def leave_out(self, tensor: Tensor) -> None:
        """Do not count this tensor, which represents another that is counted."""
        storage = tensor.untyped_storage()
        self._see(storage, 0)
        self.now -= self._sizes[storage._cdata]
        self._sizes[storage._cdata] = 0

    def start_again(self) -> None:
        """Reset the peak."""
        self.peak = self.now

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if self._inside:  # operations that fake tensors use to find a shape
            return func(*args, **(kwargs or {}))
        self._inside = True
        try:
            result = func(*args, **(kwargs or {}))
        finally:
            self._inside = False
        taken, made = _tensors((args, kwargs)), _tensors(result)
        self.hold([*taken, *made])
        if self._workspace is not None:
            self.peak = max(self.peak, self.now + self._workspace(func, taken, made))
        return result

    def _see(self, storage: torch.UntypedStorage, size: int) -> None:
        key = storage._cdata
        if key in self._sizes:
            return

        def gone(_: object) -> None:
            del self._known[key]
            self.now -= self._sizes.pop(key)

        self._known[key], self._sizes[key] = weakref.ref(storage, gone), size
        self.now += size


def gpu_workspace(func: Any, taken: list[Tensor], made: list[Tensor]) -> int:
    """Upper estimate of the workspace of GPU kernels.

    Convolutions in half precision may copy their inputs and outputs into cuDNN's own layout; the backward pass of attention
    sums the queries' gradients in float32.
    """
    name = func.name()
    if name.startswith("aten::convolution"):
        return sum(tensor.numel() * tensor.element_size() for tensor in [*taken, *made])
    if "attention" in name and "backward" in name:
        return 4 * made[0].numel()
    return 0


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_iter(tree) if isinstance(leaf, Tensor)]
