"""Change the files of tiny model folders, and write a model as a single file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file

from .ldm_layout import ldm_checkpoint

__all__ = ["change", "single_file_of", "without"]


def change(path: Path, **values: Any) -> None:
    """Set values of a JSON file, which need not exist."""
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps({**before, **values}), encoding="utf-8")


def single_file_of(model: Path, host: Any, folder: Path) -> tuple[Path, Path]:
    """The model as one file, and a folder of its family that holds configurations and no weights."""
    first, *second = (encoder.tower.state_dict() for encoder in host.text.values())
    unet, vae = host.denoiser.unet.state_dict(), host.codec.vae.state_dict()
    save_file(ldm_checkpoint(first, unet, vae, 1, *second), folder / "model.safetensors")
    shutil.copytree(model, folder / "family", ignore=shutil.ignore_patterns("*.safetensors", "clip*"))
    return folder / "model.safetensors", folder / "family"


def without(source: Path, names: list[str], target: Path) -> Path:
    """A copy of a file that lacks these tensors."""
    content = {name: tensor for name, tensor in load_file(source).items() if name not in names}
    save_file(content, target, metadata={"format": "pt"})
    return target
