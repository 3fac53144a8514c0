"""Several processes that work as one, on the GPUs of one machine or of many; started by ``accelerate launch``."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from .errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SINGLE_PROCESS", "DistributedContext", "launched", "shut_down", "started"]

_PATIENCE, _LONG_PATIENCE = timedelta(minutes=30), timedelta(days=1)
"""Collective timeouts. A crash is noticed at once on the same machine, only after the timeout on another."""
_PIECE = 2**24
"""Most bytes of each process that are sent at once."""


@dataclass(frozen=True)
class DistributedContext:
    """This process's place among all. Each call but ``share`` is one that all of them must make, in the same order."""

    index: int = 0
    count: int = 1
    device: str = "cpu"
    """Which device is this process's own; what is sent passes through it."""
    local_count: int = 1
    """How many of them are on this machine."""

    @property
    def is_main(self) -> bool:
        """Of all, one writes files and talks to people."""
        return self.index == 0

    def share(self, items: int) -> slice:
        """This process's rows of so many: one after the other over the processes, of lengths that differ by one at most."""
        return slice(items * self.index // self.count, items * (self.index + 1) // self.count)

    def all_reduce_sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, the same to the bit in each; float32, sent as one."""
        if self.count == 1 or not tensors:
            return
        import torch

        with torch.no_grad():
            flat = torch.cat([tensor.detach().reshape(-1).float().to(self.device) for tensor in tensors])
            torch.distributed.all_reduce(flat)
            for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(part.view(tensor.shape))

    def any(self, flag: bool) -> bool:
        """Whether any process says so."""
        if self.count == 1:
            return flag
        import torch

        said = torch.tensor([float(flag)], device=self.device)
        torch.distributed.all_reduce(said)
        return bool(said.item() > 0)

    def gather(self, value: Any) -> list[Any]:
        """What each process gives, in their order, in every process.

        Args:
            value: of what JSON has: numbers, texts, lists, dicts. Nothing that would have to be run to be read.
        """
        if self.count == 1:
            return [value]
        import torch

        sent = torch.frombuffer(bytearray(json.dumps(value), "utf-8"), dtype=torch.uint8)
        return [json.loads(bytes(part.numpy())) for part in self._gather_bytes(sent)]

    def all_gather_rows(self, rows: Tensor) -> Tensor:
        """(n, ...) rows of each process -> all of them in the processes' order, on the CPU; of one dtype, n may be 0."""
        if self.count == 1:
            return rows
        import torch

        rows = rows.detach().cpu().contiguous()
        shapes = self.gather(list(rows.shape))
        parts = self._gather_bytes(rows.reshape(-1).view(torch.uint8))
        some = next((shape for shape in shapes if shape[0]), shapes[0])
        full = [part.view(rows.dtype).view(shape[0], *some[1:]) for part, shape in zip(parts, shapes, strict=True)]
        return torch.cat(full)

    def barrier(self) -> None:
        """Until all are here."""
        self.any(False)

    def _gather_bytes(self, own: Tensor) -> list[Tensor]:
        """(n,) uint8 of each process -> those of all, on the CPU."""
        import torch

        lengths = torch.zeros(self.count, dtype=torch.int64, device=self.device)
        lengths[self.index] = len(own)
        torch.distributed.all_reduce(lengths)
        parts: list[list[Tensor]] = [[] for _ in range(self.count)]
        for start in range(0, int(lengths.max()), _PIECE):
            piece = torch.zeros(min(_PIECE, int(lengths.max()) - start), dtype=torch.uint8, device=self.device)
            mine = own[start : start + len(piece)]
            piece[: len(mine)] = mine.to(self.device)
            received = [torch.empty_like(piece) for _ in range(self.count)]
            torch.distributed.all_gather(received, piece)
            for part, one in zip(parts, received, strict=True):
                part.append(one.cpu())
        joined = [torch.cat(part) if part else own.cpu()[:0] for part in parts]
        return [whole[:length].clone() for whole, length in zip(joined, lengths.tolist(), strict=True)]


SINGLE_PROCESS = DistributedContext()
"""The one process of a program that was started in the plain way."""


def launched(*, cpu: bool = False, uneven: bool = False) -> DistributedContext:
    """This process's place among those that ``accelerate launch`` (or ``torchrun``) has started; else ``SINGLE_PROCESS``.

    Args:
        cpu: work on the CPU though there are GPUs.
        uneven: they meet only at the end, where one may have to wait for hours; otherwise they meet at every step.

    Raises:
        ConfigError: there are several processes, but Hugging Face Accelerate is not installed, or cannot tell where they meet.
    """
    if started() == 1:
        return SINGLE_PROCESS
    import torch

    try:
        from accelerate import PartialState
    except ImportError as error:
        raise ConfigError(
            f"this is one of {started()} processes, which need Hugging Face Accelerate to work together; "
            "pip install 'mcti[processes]' or 'accelerate', or start a single process"
        ) from error
    cpu = cpu or os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" or not torch.cuda.is_available()
    patience = _LONG_PATIENCE if uneven else _PATIENCE
    try:
        state = PartialState(cpu=cpu, timeout=patience, **({"backend": "gloo"} if cpu else {}))
    except ValueError as error:
        raise ConfigError(
            f"the launcher's variables do not go together ({error}); start with accelerate launch, or unset WORLD_SIZE, RANK and LOCAL_RANK"
        ) from error
    here = os.environ.get("LOCAL_WORLD_SIZE", "")
    device = "cpu" if cpu else str(state.device)
    return DistributedContext(state.process_index, state.num_processes, device, int(here) if here.isdecimal() else 1)


def started() -> int:
    """How many processes a launcher has started to work together; 1 without one."""
    place = [os.environ.get(name, "") for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK")]  # a launcher sets all three
    return int(place[0]) if all(value.isdecimal() for value in place) else 1


def shut_down() -> None:
    """Let go of the other processes when all are done; the launcher ends all once one has left with an error."""
    if started() == 1:
        return
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        from accelerate import PartialState

        PartialState().wait_for_everyone()
        torch.distributed.destroy_process_group()
