"""Measure on a GPU what ``families.py`` computes: memory and time of a training step, for families that ComfyUI can load.

Usage: python -m benchmarks.families_on_gpu ~/ComfyUI [--families flux z-image] [--dtypes bf16 fp8] [--output-json FILE]     (with ComfyUI's Python)

The same step runs on ComfyUI's own classes at their real sizes, with random weights that are all on the device and every block
checkpointed. PyTorch's allocator says the peak; ``step`` is what it exceeds the weights by.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from mcti_core.hosts.checkpointing import blocks_of, checkpointed

from .families import DTYPES, FAMILIES, Family, OutOfPlace, build, step_of
from .memory import GB
from .report import machine, parsed, show, write_json

__all__ = ["measured"]

STEPS = 3


def measured(family: Family, dtype: str, device: str) -> dict[str, Any]:
    """Memory in GB and seconds of the last of some steps."""
    denoiser, encoders = build(family, DTYPES[dtype])
    parts = [denoiser, *encoders.values()]
    for part in parts:
        part.to_empty(device=device)
        _randomise(part)
    weights = torch.cuda.memory_allocated()
    blocks = [block for part in parts for block in blocks_of(part)]

    @contextmanager
    def within() -> Iterator[None]:
        """Enter the modes, which are per thread: on a GPU, the backward pass recomputes blocks in a thread of its own."""
        with torch.device(device), OutOfPlace():
            yield

    with within(), checkpointed(blocks, within):
        step = step_of(family, denoiser, encoders)
        for _ in range(STEPS):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            torch.cuda.synchronize()
            began = time.perf_counter()
            slopes: Any = step()
            torch.cuda.synchronize()
            seconds = time.perf_counter() - began
    peak, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    return {
        "family": family.name, "dtype": dtype, "weights": round(weights / GB, 2), "step": round((peak - weights) / GB, 2),
        "peak": round(peak / GB, 2), "reserved": round(reserved / GB, 2), "seconds": round(seconds, 3),
        "finite": str(all(bool(slope.isfinite().all()) for slope in slopes)),
    }  # fmt: skip


@torch.no_grad()
def _randomise(module: nn.Module) -> None:
    """Fill tensors that were built without data: small random numbers, and zeros for integers, which are indices."""
    for weight in [*module.parameters(), *module.buffers()]:
        if weight.is_floating_point():
            weight.copy_(torch.randn(weight.shape, device=weight.device, dtype=torch.bfloat16) * 0.02)
        else:
            weight.zero_()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comfyui", help="ComfyUI's folder")
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--device", default="cuda")
    given = parsed(parser, arguments)
    sys.path.insert(0, given.comfyui)
    import comfy.cli_args

    comfy.cli_args.args.use_pytorch_cross_attention = True
    comfy.cli_args.args.cpu = given.device == "cpu"
    import comfy.model_management

    rows: list[dict[str, Any]] = []
    with ExitStack() as restored:
        restored.callback(setattr, comfy.model_management, "in_training", False)
        comfy.model_management.in_training = True  # no fused kernels that write in place
        for name, dtype in [(name, dtype) for name in given.families for dtype in given.dtypes]:
            try:
                rows.append(measured(FAMILIES[name], dtype, given.device))
            except Exception as error:  # the next one may be smaller
                rows.append({"family": name, "dtype": dtype, "failed": f"{type(error).__name__}: {error}"[:200]})
            print(json.dumps(rows[-1]), flush=True)
            gc.collect()
            torch.cuda.empty_cache()
    show("Training step at 1024 px, one image, one vector, every block checkpointed: memory in GB, measured", rows)
    write_json(given.output_json, {"machine": machine(given.device), "rows": rows})


if __name__ == "__main__":
    main()
