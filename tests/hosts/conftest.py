import os
from importlib.util import find_spec
from pathlib import Path

import pytest


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
