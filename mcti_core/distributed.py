"""Share work among the processes of ``accelerate launch``, on the GPUs of one machine or of several."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from .errors import ConfigError, listed

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SINGLE_PROCESS", "DistributedContext", "launched", "shut_down", "started"]

_TIMEOUT, _LONG_TIMEOUT = timedelta(minutes=30), timedelta(days=1)
"""Collective timeouts. A crash is noticed at once on the same machine, only after the timeout on another."""


@dataclass(frozen=True)
class DistributedContext:
    """This process's rank, and collective calls. All processes must make every call except ``share``, in the same order."""

    index: int = 0
    count: int = 1
    device: str = "cpu"
    """This process's own device; messages pass through it."""
    local_count: int = 1
    """Number of processes on this machine."""

    @property
    def is_main(self) -> bool:
        """Whether this is the one process that writes files and prints messages."""
        return self.index == 0

    def share(self, items: int) -> slice:
        """This process's slice of the rows: consecutive over the processes, with lengths that differ by at most one."""
        return slice(items * self.index // self.count, items * (self.index + 1) // self.count)

    def all_reduce_sum(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, identical to the bit in each; float32, sent as one message."""
        if self.count == 1 or not tensors:
            return
        import torch

        with torch.no_grad():
            flat = torch.cat([tensor.detach().reshape(-1).float().to(self.device) for tensor in tensors])
            torch.distributed.all_reduce(flat)
            for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(part.view(tensor.shape))

    def any(self, flag: bool) -> bool:
        """Whether the value is true in any process."""
        if self.count == 1:
            return flag
        import torch

        flags = torch.tensor([float(flag)], device=self.device)
        torch.distributed.all_reduce(flags)
        return bool(flags.item() > 0)

    def gather(self, value: Any) -> list[Any]:
        """The values of all processes, in their order, in every process.

        Args:
            value: JSON types: numbers, texts, lists, dicts. Nothing that needs code to be read.
        """
        if self.count == 1:
            return [value]
        import torch

        sent = torch.frombuffer(bytearray(json.dumps(value), "utf-8"), dtype=torch.uint8)
        return [json.loads(bytes(part.numpy())) for part in self._gather_bytes(sent)]

    def all_gather_rows(self, rows: Tensor) -> Tensor:
        """(n, ...) rows of each process -> the rows of all, in the processes' order, on the CPU; one dtype, n may be 0."""
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
        """Wait until all processes arrive."""
        self.any(False)

    def _gather_bytes(self, own: Tensor) -> list[Tensor]:
        """(n,) uint8 of each process -> those of all processes, on the CPU."""
        import torch

        lengths = torch.zeros(self.count, dtype=torch.int64, device=self.device)
        lengths[self.index] = len(own)
        torch.distributed.all_reduce(lengths)
        padded = torch.zeros(int(lengths.max()), dtype=torch.uint8, device=self.device)  # all must be as long
        padded[: len(own)] = own.to(self.device)
        received = [torch.empty_like(padded) for _ in range(self.count)]
        torch.distributed.all_gather(received, padded)
        return [part[:length].cpu() for part, length in zip(received, lengths.tolist(), strict=True)]


SINGLE_PROCESS = DistributedContext()
"""The context of a program that was started without a launcher."""


def launched(*, cpu: bool = False, uneven: bool = False) -> DistributedContext:
    """The context of a process started by ``accelerate launch`` (or ``torchrun``); otherwise ``SINGLE_PROCESS``.

    Args:
        cpu: use the CPU even if there are GPUs.
        uneven: the processes meet only at the end, so that one may wait for hours; otherwise they meet at every step.

    Raises:
        ConfigError: see ``started``; or there are several processes, and Hugging Face Accelerate is not installed or has no address.
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
    timeout = _LONG_TIMEOUT if uneven else _TIMEOUT
    try:
        state = PartialState(cpu=cpu, timeout=timeout, **({"backend": "gloo"} if cpu else {}))
    except ValueError as error:
        raise ConfigError(
            f"the launcher's variables are inconsistent ({error}); start with accelerate launch, or unset WORLD_SIZE, RANK and LOCAL_RANK"
        ) from error
    here, device = os.environ.get("LOCAL_WORLD_SIZE", ""), "cpu" if cpu else str(state.device)
    return DistributedContext(state.process_index, state.num_processes, device, int(here) if here.isdecimal() else 1)


def started() -> int:
    """Number of processes that a launcher has started together; 1 without a launcher.

    Raises:
        ConfigError: a launcher's variables are not numbers, or not those of one of its processes.
    """
    values = [os.environ.get(name, "") for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK")]
    if not all(values):  # a launcher sets all three
        return 1
    count, *ranks = (int(value) if re.fullmatch("[0-9]{1,6}", value) else -1 for value in values)
    if not all(0 <= rank < count for rank in ranks):
        raise ConfigError(
            f"WORLD_SIZE, RANK and LOCAL_RANK are {listed(values)}, which no launcher sets; start with accelerate launch, or unset them"
        )
    return count


def shut_down() -> None:
    """Disconnect from the other processes when all are finished; the launcher ends all if one exits with an error."""
    if started() == 1:
        return
    import torch

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        from accelerate import PartialState

        PartialState().wait_for_everyone()
        torch.distributed.destroy_process_group()
