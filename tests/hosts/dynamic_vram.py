"""ComfyUI's dynamic VRAM on a CPU, for machines without an NVIDIA card.

The host's own ``ModelPatcherDynamic`` and operations run, but for their tests "is this the CPU?". What is emulated is the native
library comfy-aimdo: a range of addresses whose pages are mapped when an operation asks for a weight, and unmapped under
pressure, lowest priority first; and the buffers in which weights are cast that have no page. Unmapped memory is filled with
NaN where a GPU would report an illegal access. Written for ComfyUI v0.33.0 and comfy-aimdo 0.4.13.

    start_dynamic()                # after comfy.cli_args, before any model is made
    Vram.budget = 8 * 2**20        # too little memory: weights are evicted and offloaded
    pressure(300 * 2**20)          # what activations do that need memory in the middle of a backward
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import weakref
from typing import Any

import torch

__all__ = ["Vram", "pressure", "start_dynamic"]

_CPU = torch.device("cpu")
_STREAMS = 2


class Vram:
    """The emulated card's memory."""

    budget = 10**15
    """Bytes of pages that may be mapped."""
    page = 1 << 16
    """Bytes; a card's are of 32 MiB, but models are small here."""
    ranges: list[Any] = []  # noqa: RUF012 - weak references, the highest priority first
    evictions = 0
    refused = 0
    """Weights that found no page and were cast in a shared buffer."""

    @classmethod
    def used(cls) -> int:
        return sum(len(one.resident) for one in cls.alive()) * cls.page

    @classmethod
    def alive(cls) -> list[Any]:
        return [one for one in (reference() for reference in cls.ranges) if one is not None]


def pressure(need: int) -> None:
    """Unmap pages for ``need`` bytes, as an allocation of PyTorch's does on a card."""
    for one in reversed(Vram.alive()):
        for page in one.evictable():
            if need <= 0:
                return
            one.evict(page, lower_watermark=True)
            need -= Vram.page


class _Range:
    """comfy_aimdo.model_vbar.ModelVBAR: addresses for the weights of a model."""

    def __init__(self, size: int, device: Any):
        self.max_size = int(size) + (1 << 20)
        self.memory = mmap.mmap(-1, self.max_size)  # the system gives memory when it is written to
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.offset, self.fills, self.watermark = 0, 0, None
        self.resident: set[int] = set()
        self.pins: dict[int, int] = {}
        self.signatures: dict[int, int] = {}
        Vram.ranges.insert(0, weakref.ref(self))

    def prioritize(self, *_: Any) -> None:
        Vram.ranges[:] = [reference for reference in Vram.ranges if reference() not in (self, None)]
        Vram.ranges.insert(0, weakref.ref(self))
        self.watermark = None

    def deprioritize(self) -> None:
        pass

    def set_watermark_limit(self, *_: Any) -> None:
        pass

    def alloc(self, size: int) -> tuple[Any, int, int]:
        self.offset = (self.offset + 511) & ~511
        if self.offset + size > self.max_size:
            raise MemoryError("the range of addresses is full")
        place = (self, self.base + self.offset, size)
        self.offset += size
        return place

    def fault(self, address: int, size: int) -> Any:
        """Map the pages of a weight: their signatures, or None where there is no room."""
        pages = self._pages(address, size)
        if self.watermark is not None and max(pages) >= self.watermark:
            Vram.refused += 1
            return None
        for page in pages:
            self.pins[page] = self.pins.get(page, 0) + 1
        missing = [page for page in pages if page not in self.resident]
        if missing and not self._make_room(len(missing) * Vram.page, max(pages)):
            self.unpin(address, size)
            Vram.refused += 1
            return None
        for page in missing:
            self.fills += 1
            self.signatures[page] = self.fills
            self.resident.add(page)
        return (ctypes.c_uint32 * len(pages))(*[self.signatures[page] for page in pages])

    def unpin(self, address: int, size: int) -> None:
        for page in self._pages(address, size):
            self.pins[page] = max(0, self.pins.get(page, 0) - 1)

    def loaded_size(self) -> int:
        return len(self.resident) * Vram.page

    def free_memory(self, size: int) -> int:
        freed = 0
        for page in self.evictable():
            if freed >= size:
                break
            self.evict(page)
            freed += Vram.page
        return freed

    def evictable(self, above: int = -1) -> list[int]:
        return [page for page in sorted(self.resident, reverse=True) if page > above and not self.pins.get(page)]

    def evict(self, page: int, lower_watermark: bool = False) -> None:
        self.resident.discard(page)
        Vram.evictions += 1
        ctypes.memset(self.base + page * Vram.page, 0xFF, min(Vram.page, self.max_size - page * Vram.page))
        if lower_watermark:
            self.watermark = page if self.watermark is None else min(self.watermark, page)

    def _pages(self, address: int, size: int) -> range:
        offset = address - self.base
        return range(offset // Vram.page, (offset + size - 1) // Vram.page + 1)

    def _make_room(self, need: int, highest: int) -> bool:
        """Pages of lower priority go first, then this range's own above the weight."""
        alive = Vram.alive()
        below = [(one, page) for one in reversed(alive[alive.index(self) + 1 :]) for page in one.evictable()]
        for one, page in (*below, *((self, page) for page in self.evictable(above=highest))):
            if Vram.used() + need <= Vram.budget:
                return True
            one.evict(page, lower_watermark=True)
        return Vram.used() + need <= Vram.budget


class _HostBuffer:
    def __init__(self, *_: Any, **__: Any):
        self.size = 0

    def truncate(self, *_: Any, **__: Any) -> None:
        pass

    def get_raw_address(self) -> int:
        return 0


class _CastBuffer:
    """comfy_aimdo.vram_buffer.VRAMBuffer: memory that every layer without pages is cast in."""

    def __init__(self, max_size: int, device: Any):
        self.memory = mmap.mmap(-1, 1 << 30)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))
        self.length = 0

    def size(self) -> int:
        return self.length

    def get(self, size: int, offset: int = 0) -> tuple[Any, int, int]:
        self.length = max(self.length, size + offset)
        return self, self.base + int(offset), int(size)


class _File:
    """comfy_aimdo.model_mmap.ModelMMAP: a file of weights."""

    def __init__(self, path: str):
        self.file = open(path, "rb")  # noqa: SIM115 - as long as the model lives
        self.map = mmap.mmap(self.file.fileno(), 0, access=mmap.ACCESS_COPY)

    def get(self) -> int:
        return ctypes.addressof(ctypes.c_char.from_buffer(self.map))

    def get_file_handle(self) -> int:
        return self.file.fileno()

    def bounce(self) -> bool:
        return True


class _Stream:
    def wait_stream(self, other: Any) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def as_context(self, other: Any) -> Any:
        return contextlib.nullcontext()

    def __enter__(self) -> _Stream:
        return self

    def __exit__(self, *_: Any) -> bool:
        return False


def start_dynamic() -> None:
    """From here on, models are loaded as on an NVIDIA card."""
    import comfy.cli_args
    import comfy.memory_management
    import comfy.model_management
    import comfy.model_patcher
    import comfy.ops
    import comfy_aimdo.host_buffer
    import comfy_aimdo.model_mmap
    import comfy_aimdo.model_vbar
    import comfy_aimdo.torch
    import comfy_aimdo.vram_buffer

    comfy.cli_args.args.disable_pinned_memory = True
    comfy_aimdo.model_vbar.ModelVBAR = _Range
    comfy_aimdo.host_buffer.HostBuffer = _HostBuffer
    comfy_aimdo.vram_buffer.VRAMBuffer = _CastBuffer
    comfy_aimdo.model_mmap.ModelMMAP = _File
    comfy_aimdo.torch.aimdo_to_tensor = _tensor
    comfy.memory_management.aimdo_enabled = True
    dynamic = comfy.model_patcher.ModelPatcherDynamic
    comfy.model_patcher.CoreModelPatcher = dynamic
    dynamic.__new__ = lambda cls, *_, **__: object.__new__(cls)
    dynamic._vbar_get = _range_of
    dynamic.partially_unload = _partially_unload
    _replace_cast(comfy.ops)
    streams, turn = [_Stream() for _ in range(_STREAMS)], [0]

    def next_stream(device: Any) -> _Stream:
        turn[0] = (turn[0] + 1) % len(streams)
        return streams[turn[0]]

    management = comfy.model_management
    management.get_offload_stream = next_stream
    management.text_encoder_initial_device = lambda *_, **__: torch.device(
        "cpu", 0
    )  # not where it computes, as on a card
    management.get_free_memory = lambda dev=None, torch_free_too=False: (
        (1 << 40, 1 << 30) if torch_free_too else 1 << 40
    )


def _tensor(place: tuple[Any, int, int], device: Any) -> torch.Tensor:
    _, address, size = place
    return torch.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype=torch.uint8)


def _range_of(self: Any, create: bool = False) -> Any:
    """ModelPatcherDynamic._vbar_get, for the CPU too."""
    found = self.model.dynamic_vbars.get(self.load_device)
    if create and found is None:
        found = self.model.dynamic_vbars[self.load_device] = _Range(self.model_size() * 10, self.load_device)
    return found


def _partially_unload(self: Any, device_to: Any, memory_to_free: int = 0, force_patch_weights: bool = False) -> int:
    """ModelPatcherDynamic.partially_unload, for the CPU too."""
    found = self._vbar_get()
    freed = 0 if found is None else found.free_memory(memory_to_free)
    return freed if freed >= memory_to_free else freed + self.restore_loaded_backups()


def _replace_cast(ops: Any) -> None:
    """comfy.ops.cast_bias_weight whose branch for weights with pages is taken on the CPU too."""
    import comfy.model_management as management

    stock = ops.cast_bias_weight

    def cast_bias_weight(
        s: Any, input: Any = None, dtype: Any = None, device: Any = None, bias_dtype: Any = None, offloadable: bool = False,
        compute_dtype: Any = None, want_requant: bool = False,
    ) -> Any:  # fmt: skip
        if not hasattr(s, "_v"):
            return stock(s, input, dtype, device, bias_dtype, offloadable, compute_dtype, want_requant)
        if input is not None:
            quantised = isinstance(input, ops.QuantizedTensor)
            dtype = dtype or (input.params.orig_dtype if quantised else input.dtype)
            device = device or input.device
        bias_dtype, prefetched, stream = bias_dtype or dtype, hasattr(s, "_prefetch"), None
        if not prefetched:
            stream = ops.cast_modules_with_vbar([s], dtype, device, bias_dtype, False)
            management.sync_stream(device, stream)
        weight, bias = ops.resolve_cast_module_with_vbar(s, dtype, device, bias_dtype, compute_dtype, want_requant)
        if prefetched:
            return (weight, bias, (None, None, None)) if offloadable else (weight, bias)
        pinned = device if s._prefetch["signature"] is not None else None
        for name in ("weight", "bias"):
            patch = getattr(s, f"{name}_lowvram_function", None)
            if patch is not None:
                patch.clear_prepared()
        del s._prefetch
        return (weight, bias, (stream, pinned, None)) if offloadable else (weight, bias)

    ops.cast_bias_weight = cast_bias_weight
