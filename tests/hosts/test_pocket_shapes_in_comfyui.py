"""The pocket checkpoint loads through the real ComfyUI's own classes and gives the numbers that diffusers gives."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mcti_core.pocket import POCKET_FOLDER

pytestmark = pytest.mark.host

LARGEST = {
    "token ids": 0.0,
    "hidden states": 1e-5,
    "pooled": 1e-5,
    "learned vectors": 1e-5,
    "sigmas": 1e-4,
    "noise": 1e-5,
    "denoised": 1e-4,
    "latents": 1e-4,
    "images": 1e-4,
    "sampled image": 1e-3,
}


@pytest.fixture(scope="module", params=["random", "shipped"])
def differences(
    comfyui: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, float]:
    if request.param == "shipped" and not (POCKET_FOLDER / "model_index.json").is_file():
        pytest.skip(f"no pocket weights in {POCKET_FOLDER.name}/")
    script = Path(__file__).with_name("pocket_in_comfyui.py")
    command = [sys.executable, str(script), str(comfyui), str(tmp_path_factory.mktemp("pocket")), request.param]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("part", LARGEST)
def test_agrees_with_diffusers(part: str, differences: dict[str, float]) -> None:
    assert differences[part] <= LARGEST[part]
