import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from .server import Server


@pytest.fixture(scope="session")
def comfyui() -> Path:
    """The folder of a real ComfyUI whose requirements this Python has."""
    folder = Path(os.environ.get("COMFYUI_PATH") or Path.home() / "ComfyUI").expanduser()
    if not (folder / "comfy" / "sd.py").is_file():
        pytest.skip(f"no ComfyUI at {folder}: set COMFYUI_PATH to its folder")
    lacking = [name for name in ("einops", "torchsde", "torchvision", "diffusers") if find_spec(name) is None]
    if lacking:
        pytest.skip(
            f"this Python lacks {', '.join(lacking)}: run pytest with ComfyUI's Python, and diffusers beside it"
        )
    return folder.resolve()


@pytest.fixture(scope="session")
def in_comfyui(comfyui: Path) -> Callable[..., Any]:
    """Runs a script of this folder in a process of its own, with ComfyUI's folder and other arguments: what it tells."""

    def run(script: str, *arguments: object) -> Any:
        command = [sys.executable, str(Path(__file__).with_name(script)), str(comfyui), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.fixture(scope="module")
def server(comfyui: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real server with the pack in it, for the tests of a file."""
    with Server(comfyui, tmp_path_factory.mktemp("comfyui")) as running:
        yield running
