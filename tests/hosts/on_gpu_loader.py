"""A server of ``on_gpu`` with its own way of loading models."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from mcti_core.tokens.io import load_tokens
from mcti_core.tokens.token_set import TokenSet

from .server import Server

__all__ = ["Loader"]

FOLDERS = ("checkpoints", "diffusion_models", "clip_vision")
CLASSES = ("disc", "square")


class Loader:
    """A server that loads models in its own way, in a folder of its own.

    Args:
        name: of the loader.
        comfyui: ComfyUI's folder, with the models.
        base: an empty folder.
        options: of ComfyUI's command line.
        cpu: whether it computes on the CPU.
    """

    def __init__(self, name: str, comfyui: Path, base: Path, options: tuple[str, ...], cpu: bool):
        for folder in ("models", "custom_nodes", "input"):
            (base / folder).mkdir(parents=True, exist_ok=True)
        for folder in FOLDERS:
            (comfyui / "models" / folder).mkdir(parents=True, exist_ok=True)
            (base / "models" / folder).symlink_to(comfyui / "models" / folder, target_is_directory=True)
        probe = Path(__file__).with_name("memory_probe.py")
        (base / "custom_nodes" / probe.name).symlink_to(probe)
        _draw_examples(base / "input" / "things")
        self.name, self.server, self._tokens = (
            name,
            Server(comfyui, base, options, cpu=cpu),
            base / "models" / "mcti_tokens",
        )

    def start(self) -> bool:
        """Whether dynamic VRAM is on."""
        began = time.monotonic()
        self.server.start()
        version = self.server.get("/system_stats")["system"]
        dynamic = bool(self.memory()["dynamic"])
        print(
            f"{self.name}: ComfyUI {version['comfyui_version']} answers after {time.monotonic() - began:.0f} s, "
            f"PyTorch {version['pytorch_version']}, dynamic VRAM {'on' if dynamic else 'off'}",
            flush=True,
        )
        return dynamic

    def memory(self) -> dict[str, Any]:
        """What ``memory_probe`` says; starts its peaks anew."""
        return self.server.get("/memory_probe")  # type: ignore[no-any-return]

    def free(self) -> None:
        """Unload all models and forget all results."""
        self.server.post("/free", {"unload_models": True, "free_memory": True})
        time.sleep(1.5)  # the server does it when it finds time

    def revive(self) -> None:
        """Start the server again if it has ended."""
        if not self.server.runs():
            print(f"{self.name}: the server had ended\n{self.server.log()[-3000:]}", flush=True)
            self.server.stop()
            self.server.start()

    def tokens(self, name: str) -> TokenSet:
        return load_tokens(self._tokens / f"{name}.safetensors")


def _draw_examples(folder: Path) -> None:
    """Two images of each class."""
    for name, number in itertools.product(CLASSES, range(2)):
        image = Image.new("RGB", (512, 512), ("white", "lightblue")[number])
        draw = ImageDraw.Draw(image)
        shape = draw.ellipse if name == "disc" else draw.rectangle
        shape((96 + 60 * number, 96, 356 + 60 * number, 356), fill="red" if name == "disc" else "green")
        path = folder / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
