"""Run ComfyUI's models so that backward can run through them: ``x += y`` overwrites nothing that autograd saved.

CLIP's and T5's layers and the blocks of most diffusion transformers write ``x += ...``, those of Llama, Qwen, Gemma and Mistral
``torch.add(..., out=...)``. Python binds the result of ``+=`` to the name and ``torch.add`` returns it, so a new tensor serves
as well. A call such as ``x.add_(y)``, whose result may be ignored, is not replaced.
"""

from __future__ import annotations

import dis
import sys
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["out_of_place"]

_OPERATORS: dict[Any, Any] = {
    Tensor.add_: torch.add,
    Tensor.sub_: torch.sub,
    Tensor.mul_: torch.mul,
    Tensor.div_: torch.div,
}
_WITH_OUT = (torch.add, torch.sub, torch.mul, torch.div)


class out_of_place(TorchFunctionMode):  # noqa: N801 - used as a function
    """Context in which ``x += y`` and ``torch.add(x, y, out=z)`` create new tensors while gradients are recorded. The values are the same."""

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        options = options or {}
        if not torch.is_grad_enabled():
            return function(*arguments, **options)
        if function in _OPERATORS and _is_operator(sys._getframe(1)):
            x, y = arguments
            return _OPERATORS[function](x, y).to(x.dtype)
        if function in _WITH_OUT and "out" in options:
            options = {name: value for name, value in options.items() if name != "out"}
        return function(*arguments, **options)


def _is_operator(frame: FrameType) -> bool:
    """Whether the frame is at an operator such as ``+=``, and not at a call."""
    return dis.opname[frame.f_code.co_code[frame.f_lasti]].startswith(("INPLACE_", "BINARY_OP"))
