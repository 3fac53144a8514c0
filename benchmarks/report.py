"""Report a benchmark: a table, JSON, and a description of the machine."""

from __future__ import annotations

import json
import os
import platform
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

__all__ = ["machine", "parsed", "show", "write_json"]


def parsed(parser: ArgumentParser, arguments: Sequence[str] | None) -> Namespace:
    """Parse arguments, including every script's ``--threads`` and ``--output-json``, and set the threads."""
    parser.add_argument("--threads", type=int, help="PyTorch threads on the CPU; by default one per core")
    parser.add_argument("--output-json", type=Path, help="write all figures here")
    options = parser.parse_args(arguments)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    return options


def machine(device: str) -> dict[str, Any]:
    """The versions and hardware that figures depend on."""
    cuda = torch.device(device).type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else _processor(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "torch": torch.__version__,
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _processor() -> str:
    known = Path("/proc/cpuinfo")  # where platform.processor() returns nothing
    lines = known.read_text(encoding="utf-8").splitlines() if known.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def show(title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows of one kind as a table in Markdown; the first row's names are its columns."""
    print(f"\n{title}\n", flush=True)
    if not rows:
        return
    columns = list(dict.fromkeys(name for row in rows for name in row))
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(_text(row.get(name)) for name in columns) + " |", flush=True)


def write_json(path: Path | None, found: Mapping[str, Any]) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)
