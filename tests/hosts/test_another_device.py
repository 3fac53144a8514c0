"""Another device gives the CPU's numbers: a simulated one, and a GPU if the machine has one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["tiny_model", "xl_model"])
def found(request):
    return told(request, "elsewhere")


@pytest.fixture(scope="module", params=["tiny_model", "xl_model"])
def found_on_a_gpu(request):
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    return told(request, "cuda")


def told(request, device):
    """What ``on_another_device`` tells of each run."""
    model = request.getfixturevalue(request.param)
    clip = "clip" if request.param == "tiny_model" else "clip_l"
    command = [sys.executable, "-m", "tests.hosts.on_another_device", str(model), str(model / clip), device]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, cwd=Path(__file__).parents[2]
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_numbers_are_the_cpus_and_no_operation_mixes_devices(found):
    """Mixing would be an error."""
    assert len(found) == 20
    assert {name: run["apart"] for name, run in found.items() if run["apart"] > 1e-4} == {}


def test_a_training_waits_every_16_steps_and_at_the_end(found):
    """In the end the losses are read, and the tokens of each text encoder; of the probe the noise levels, and three looks."""
    encoders = found["training, both terms"]["waits"] - 1
    assert encoders == len(found["training, both terms"]["copies"])
    more = {"17 steps": 1, "33 steps": 2, "probe": 1 + 3}
    for name, run in trainings(found).items():
        assert run["waits"] == 1 + encoders + more.get(name, 0), name


def test_nothing_is_copied_to_the_device_in_a_way_that_waits_while_it_trains(found):
    """Before it, the first vectors are, and what the probe looks at: its classes, and three tensors of each of six parts."""
    first = found["training, both terms"]["copies"]
    assert len(first) <= 2
    for name, run in trainings(found).items():
        assert run["copies"] == first or (name == "probe" and len(run["copies"]) == len(first) + 1 + 3 * 6), name


def test_classifying_waits_for_latents_features_and_each_look(found):
    """8 pairs have 5 looks; features come in one piece."""
    assert found["clip"]["waits"] <= 2
    assert found["diffusion"]["waits"] <= 6


def test_a_gpu_gives_the_cpus_numbers(found_on_a_gpu):
    assert len(found_on_a_gpu) == 20
    assert {name: run["apart"] for name, run in found_on_a_gpu.items() if run["apart"] > 1e-3} == {}


def test_a_training_on_a_gpu_waits_every_16_steps(found_on_a_gpu):
    waits = {name: run["waits"] for name, run in trainings(found_on_a_gpu).items()}
    assert waits["17 steps"] == waits["both terms"] + 1
    assert waits["33 steps"] == waits["both terms"] + 2


def trainings(found):
    return {name.split(", ")[1]: run for name, run in found.items() if name.startswith("training")}
