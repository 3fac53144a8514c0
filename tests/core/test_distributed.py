import builtins
import subprocess
import sys
from itertools import chain

import pytest
import torch

from mcti_core.cli.parser import main
from mcti_core.distributed import SINGLE_PROCESS, DistributedContext, launched, started
from mcti_core.errors import ConfigError

VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK")


@pytest.fixture(autouse=True)
def started_by_nobody(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("items", [0, 1, 2, 7, 8, 100])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_shares_are_everything_once_in_order_and_alike(items, count):
    shares = [list(range(items))[DistributedContext(index, count).share(items)] for index in range(count)]
    assert list(chain(*shares)) == list(range(items))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_alone_there_is_nothing_to_do():
    tensors = [torch.arange(3.0), torch.tensor(2.0)]
    SINGLE_PROCESS.all_reduce_sum(tensors)
    assert [tensor.tolist() for tensor in tensors] == [[0, 1, 2], 2]
    assert (SINGLE_PROCESS.any(False), SINGLE_PROCESS.any(True)) == (False, True)
    assert SINGLE_PROCESS.gather({"a": 1}) == [{"a": 1}]
    assert SINGLE_PROCESS.all_gather_rows(tensors[0]) is tensors[0]
    assert SINGLE_PROCESS.is_main
    SINGLE_PROCESS.barrier()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"},
        {"WORLD_SIZE": "4", "RANK": "1"},  # as some clusters set for every program; no launcher
        {"WORLD_SIZE": "", "RANK": "0", "LOCAL_RANK": "0"},
    ],
)
def test_a_program_that_was_started_plainly_is_alone(monkeypatch, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert started() == 1
    assert launched() is SINGLE_PROCESS


@pytest.mark.parametrize(
    "values", [("many", "0", "0"), ("9" * 5000, "0", "0"), ("2", "x", "0"), ("2", "2", "0"), ("0", "0", "0"), ("2", "0", "1.5"), ("²", "0", "0")]
)  # fmt: skip
def test_variables_that_no_launcher_sets_are_an_error(monkeypatch, capsys, values):
    for name, value in zip(VARIABLES, values, strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="which no launcher sets; start with accelerate launch, or unset them"):
        launched()
    assert main(["train", "nowhere", "--output-dir", "nowhere"]) == 1
    assert capsys.readouterr().err.startswith("mcti: WORLD_SIZE, RANK and LOCAL_RANK are ")


def test_without_accelerate_it_says_what_to_install(monkeypatch):
    for name, value in zip(VARIABLES, "210", strict=True):
        monkeypatch.setenv(name, value)
    real = builtins.__import__

    def missing(name, *rest, **options):
        if name.startswith("accelerate"):
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigError, match=r"one of 2 processes.*mcti\[processes\]"):
        launched()


def test_alone_imports_nothing():
    code = (
        "import sys; from mcti_core.distributed import SINGLE_PROCESS, launched, shut_down\n"
        "launched(); SINGLE_PROCESS.all_reduce_sum([]); SINGLE_PROCESS.gather(1); SINGLE_PROCESS.barrier(); shut_down()\n"
        "print({'torch', 'accelerate'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"


def test_variables_of_a_launcher_without_its_address_are_a_sentence(monkeypatch):
    accelerate = pytest.importorskip("accelerate")

    def refuse(**options):
        raise ValueError("`MASTER_ADDR` env was not set")

    monkeypatch.setattr(accelerate, "PartialState", refuse)
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"are inconsistent .*MASTER_ADDR"):
        launched()
