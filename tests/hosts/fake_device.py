"""A simulated device on the CPU that behaves as another device, for machines that have none.

Its tensors hold one on the CPU each and say that they are elsewhere. As on a GPU, an operation on tensors of two devices
is an error, and what makes the host wait for the device, or copies to it, is written down.

PyTorch calls this a Python backend (``torch.utils.backend_registration``). It is there once for a whole process: import this
file in a process of its own.
"""

import sys

import torch
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

__all__ = ["COPIES", "DEVICE", "WAITS"]

WAITS: list[str] = []
"""Operations whose results the host needs, in order."""
COPIES: list[str] = []
"""Functions that copied a tensor to the device in a way that would wait for it, in order."""
DOORS = ("on_device",)
"""Functions that copy to the device without waiting."""
_NAME = "elsewhere"


class _Module(_DummyBackendModule):
    def get_amp_supported_dtype(self):
        return [torch.bfloat16]


_setup_privateuseone_for_python_backend(_NAME, backend_module=_Module())
DEVICE = torch.device(_NAME, 0)
_CPU, _ATEN = torch.device("cpu"), torch.ops.aten
_COPYING = {_ATEN.copy_, _ATEN._to_copy, _ATEN.to}
_INDEXING = {_ATEN.index, _ATEN.index_put, _ATEN.index_put_}
"""PyTorch takes their indices from the CPU too, and copies them."""
_JOINING = {_ATEN.cat, _ATEN.stack}
_WAITING = {
    _ATEN._local_scalar_dense, _ATEN._unique2, _ATEN.equal, _ATEN.is_nonzero, _ATEN.masked_select, _ATEN.nonzero, _ATEN.unique_dim,
}  # fmt: skip
"""The host must know their results, or how large they are."""


class Elsewhere(torch.Tensor):
    """A tensor there."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.size(), strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype, device=DEVICE
        )  # fmt: skip

    def __init__(self, inner):
        self.inner = inner

    def __repr__(self):
        return f"Elsewhere({self.inner})"

    def tolist(self):
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return _run(operation, args, kwargs or {})


def _run(operation, args, kwargs):
    """The operation, on what the tensors hold."""
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, Elsewhere)]
    asked = next((value for value in (*args, *kwargs.values()) if isinstance(value, torch.device)), None)
    result_there = bool(there) if asked is None else asked.type != "cpu"
    _note(operation.overloadpacket, args, tensors, there, result_there)

    def here(value):
        if isinstance(value, torch.device):
            return _CPU
        return value.inner if isinstance(value, Elsewhere) else value

    args, kwargs = tree_map(here, (args, kwargs))
    if "pin_memory" in kwargs:
        kwargs["pin_memory"] = False
    known = {id(tensor.inner): tensor for tensor in there}

    def back(value):
        if not isinstance(value, torch.Tensor):
            return value
        if not result_there:
            return value.clone() if id(value) in known else value
        return known.get(id(value)) if id(value) in known else Elsewhere(value)

    with torch.inference_mode(False), torch.no_grad():
        return tree_map(back, operation(*args, **kwargs))


def _note(packet, args, tensors, there, result_there):
    others = [tensor for tensor in tensors if not isinstance(tensor, Elsewhere)]
    # a single number may come from anywhere, but for a row of numbers
    many = others if packet in _JOINING else [tensor for tensor in others if tensor.ndim]
    if packet in _COPYING:
        to_the_cpu = bool(there) and (not result_there or not isinstance(args[0], Elsewhere))
        if to_the_cpu:
            WAITS.append(str(packet))
        elif many:
            _note_copy()
    elif there and many and packet not in _INDEXING:
        places = ", ".join(f"{tuple(tensor.shape)} on {tensor.device}" for tensor in tensors)
        raise RuntimeError(f"{packet}: expected all tensors to be on the same device, found {places}")
    elif there and many:
        _note_copy()
    if there and packet in _WAITING:
        WAITS.append(str(packet))


def _note_copy():
    frame, names = sys._getframe(1), []
    while frame is not None:
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    if not any(door in names for door in DOORS):
        COPIES.append(next((name for name in names if not name.startswith("_")), names[0]))


def _without_tensors(operation):
    return lambda *args, **kwargs: _run(operation, args, kwargs)


_everything = torch.library.Library("_", "IMPL")
_everything.fallback(lambda operation, *args, **kwargs: _run(operation, args, kwargs), "PrivateUse1")
_making = torch.library.Library("aten", "IMPL")
for _overload in ("", "start", "start_step"):  # these would resize what a wrapper cannot
    _name = "arange" + (f".{_overload}" if _overload else "")
    _making.impl(_name, _without_tensors(getattr(_ATEN.arange, _overload or "default")), "PrivateUse1")
