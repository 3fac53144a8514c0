import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mcti_core.tokens.io import save_tokens
from mcti_core.tokens.token_set import TokenSet

from .browser import opened_page
from .model_files import change
from .server import Server
from .synthetic_checkpoints import write_clip, write_sd15


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


@pytest.fixture(scope="module")
def nodes2() -> bool:
    """Whether the page draws Nodes 2.0; a file whose tests are of both kinds of page overrides this."""
    return False


@pytest.fixture(scope="module")
def page(server: Server, nodes2: bool) -> Iterator[Any]:
    """The page of the server, in Chromium."""
    with opened_page(server, nodes2) as opened:
        yield opened


@pytest.fixture(scope="module")
def sd15(server: Server) -> Server:
    """With a checkpoint, a CLIP model and a folder of examples."""
    folders = [server.base / "models" / name for name in ("checkpoints", "clip_vision")]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    write_sd15(folders[0] / "synthetic.ckpt")
    write_clip(folders[1] / "clip.bin", text=False)  # whose words would be others than the checkpoint's
    noise = np.random.default_rng(0)
    for label in ("my cup", "Shoe"):
        folder = server.base / "input" / "my-things" / label
        folder.mkdir(parents=True)
        Image.fromarray(noise.integers(0, 256, (80, 100, 3), dtype=np.uint8)).save(folder / "1.png")
    return server


@pytest.fixture(scope="module")
def own_tokens(sd15: Server) -> Path:
    """A file of tokens for that checkpoint."""
    generator = torch.Generator().manual_seed(0)
    vectors = {"clip_l": 0.03 * torch.randn(2, 1, 768, generator=generator)}
    file = sd15.base / "models" / "mcti_tokens" / "own.safetensors"
    save_tokens(TokenSet(("my cup", "shoe"), vectors), file)
    return file


@pytest.fixture(scope="session")
def kl_model(tiny_model, tmp_path_factory) -> Path:
    """The tiny model with the kind of autoencoder that Stable Diffusion has."""
    from diffusers import AutoencoderKL

    folder = tmp_path_factory.mktemp("kl") / "model"
    shutil.copytree(tiny_model, folder)
    shutil.rmtree(folder / "vae")
    torch.manual_seed(1)
    AutoencoderKL(
        block_out_channels=(8, 16, 16), down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3, latent_channels=4, norm_num_groups=4, sample_size=32,
    ).save_pretrained(folder / "vae")  # fmt: skip
    change(folder / "model_index.json", vae=["diffusers", "AutoencoderKL"])
    return folder
