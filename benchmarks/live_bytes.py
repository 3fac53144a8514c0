"""Count the bytes of all living tensors while code runs, also of tensors that have shapes and no numbers."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

__all__ = ["LiveBytes", "gpu_workspace"]

Workspace = Callable[[Any, list[Tensor], list[Tensor]], int]
"""(operation, tensors in, tensors out) -> bytes that its kernel takes beside them while it runs."""


class LiveBytes(TorchDispatchMode):
    """Inside ``with``, ``now`` is the bytes alive and ``peak`` the most there were at once.

    A storage counts from the first operation that takes or makes it until nothing refers to it, whatever views there
    are of it. This is what an allocator without rounding or gaps would hold.

    Args:
        workspace: of each operation; none by default.
    """

    def __init__(self, workspace: Workspace | None = None):
        super().__init__()
        self.now = self.peak = 0
        self._workspace, self._inside = workspace, False
        self._known: dict[int, weakref.ref[torch.UntypedStorage]] = {}  # by address
        self._sizes: dict[int, int] = {}

    def hold(self, tensors: Iterable[Tensor]) -> None:
        """Count these, as weights that wait for their turn."""
        for storage in (tensor.untyped_storage() for tensor in tensors):
            self._see(storage, storage.nbytes())
        self.peak = max(self.peak, self.now)

    def leave_out(self, tensor: Tensor) -> None:
        """Do not count this one: it stands for another that is counted."""
        storage = tensor.untyped_storage()
        self._see(storage, 0)
        self.now -= self._sizes[storage._cdata]
        self._sizes[storage._cdata] = 0

    def start_again(self) -> None:
        """Forget the peak so far."""
        self.peak = self.now

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if self._inside:  # what an operation on fake tensors does in order to find its shape
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
    """What kernels on a GPU are known to take for themselves, rather too much than too little.

    Convolutions in half precision may copy what they take and make into cuDNN's own layout; the backward of attention
    adds up the queries' gradients in float32.
    """
    name = func.name()
    if name.startswith("aten::convolution"):
        return sum(tensor.numel() * tensor.element_size() for tensor in [*taken, *made])
    if "attention" in name and "backward" in name:
        return 4 * made[0].numel()
    return 0


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_iter(tree) if isinstance(leaf, Tensor)]
