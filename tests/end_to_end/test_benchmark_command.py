"""``mcti benchmark`` as a user types it, on the pocket checkpoint and a folder of a few images."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from mcti_core.cli.benchmark import _share
from mcti_core.distributed import DistributedContext
from mcti_core.evaluation import cells
from mcti_core.evaluation.costs import Cost
from mcti_core.pocket.textures import texture_dataset

from .command_line import run

ROOT = Path(__file__).parents[2]
QUICK = "--steps 1 --batch-size 2 --shots 1 --seeds 1 --released-steps 1 --diffusion-queries 2 --num-trials 1 --drawings 1 --pool 2"
CHEAP = "--methods baselines ti --drawings 0 --diffusion-queries 0 --seeds 2"


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Two data sets: of one part, and with a test part of its own."""
    folder = tmp_path_factory.mktemp("sets")
    for name, parts in (("patterns", ("",)), ("parted", ("train", "test"))):
        data = texture_dataset(3)
        for number, (image, label) in enumerate(zip(data.images, data.labels.tolist(), strict=True)):
            if label in (0, 3):
                for part in parts:
                    file = folder / name / part / data.classes[label] / f"{number}.png"
                    file.parent.mkdir(parents=True, exist_ok=True)
                    Image.fromarray((image.permute(1, 2, 0) * 255).byte().numpy()).save(file)
    return folder


def benchmark_line(sets, out, options="", names=("patterns", "parted")):
    data = " ".join(str(sets / name) for name in names)
    return f"benchmark --output-dir {out} --data-sets {data} {QUICK} {options}"


def benchmark(*given, **named):
    return run(benchmark_line(*given, **named))


def read(out):
    return json.loads((out / "results.json").read_text(encoding="utf-8"))


def figures(out):
    return {(c["data"], c["shots"], c["seed"], c["run"]): c["figures"] for c in read(out)["cells"]}


def numbers(out):
    """Each figure under its cell, method and name."""
    return {
        (cell, method, name): number
        for cell, methods in figures(out).items()
        for method, each in methods.items()
        for name, number in each.items()
    }


@pytest.fixture(scope="module")
def whole(sets, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    assert benchmark(sets, out) == 0
    return out


def test_benchmark_measures_every_method_on_every_data_set(whole):
    found = figures(whole)
    keys = [("patterns", 0, 0, "reference"), ("parted", 0, 0, "reference")]
    keys += [(data, 1, 0, r) for data in ("patterns", "parted") for r in cells.RUNS[1:]]
    assert list(found) == keys
    methods = {method for each in found.values() for method in each}
    assert methods == {*cells.METHODS, cells.REAL}
    assert read(whole)["data"]["parted"]["own_test"]
    assert not read(whole)["data"]["patterns"]["own_test"]
    table = (whole / "table.md").read_text(encoding="utf-8")
    assert all(f"| {method} |" in table for method in cells.METHODS)
    with Image.open(whole / "plot.png") as image:
        assert image.width > 300


@pytest.fixture(scope="module")
def cheap(sets, tmp_path_factory):
    out = tmp_path_factory.mktemp("cheap")
    assert benchmark(sets, out, CHEAP) == 0
    return out


def test_benchmark_broken_off_in_the_middle_goes_on(sets, cheap, tmp_path, monkeypatch, capsys):
    measured, plain = [], cells.measure

    def broken(task, cell, on_step=None):
        if len(measured) == 3:
            raise KeyboardInterrupt
        measured.append(cell)
        return plain(task, cell, on_step)

    def watched(task, cell, on_step=None):
        measured.append(cell)
        return plain(task, cell, on_step)

    monkeypatch.setattr("mcti_core.cli.benchmark.measure", broken)
    assert benchmark(sets, tmp_path, CHEAP) == 130
    assert len(read(tmp_path)["cells"]) == 3
    monkeypatch.setattr("mcti_core.cli.benchmark.measure", watched)
    capsys.readouterr()
    assert benchmark(sets, tmp_path, CHEAP) == 0
    assert "5 of 8 cells are left" in capsys.readouterr().err
    assert len(measured) == len(set(measured)) == 8
    assert figures(tmp_path) == figures(cheap)


def test_benchmark_says_what_it_costs_and_does_nothing_with_dry_run(sets, tmp_path, capsys):
    assert benchmark(sets, tmp_path / "out", "--dry-run") == 0
    told = capsys.readouterr().err
    # of each data set: a step of 2 images for TI and for MC-TI, and as released a step of 4 images for each of 2 classes at once
    assert "10 of 10 cells are left" in told
    assert "6 training steps, 24 UNet calls with a backward pass" in told
    assert "hours at the rate measured here" in told
    assert not (tmp_path / "out").exists()


def test_benchmark_of_a_missing_data_set_goes_on_with_the_others(sets, whole, tmp_path, capsys):
    line = f"benchmark --output-dir {tmp_path / 'out'} --data {tmp_path} {QUICK} --methods baselines --data-sets flowers102"
    assert run(f"{line} no-such-thing {sets / 'patterns'}") == 0
    told = capsys.readouterr()
    assert f"flowers102 is left out: it is not at {tmp_path / 'flowers-102'}; put jpg/" in told.err
    assert "no-such-thing is left out: it is neither a folder nor one of flowers102" in told.err
    assert "Left out: flowers102: it is not at" in told.out
    assert {data for data, *_ in figures(tmp_path / "out")} == {"patterns"}
    assert run(line) == 1
    assert "none of the data sets can be used" in capsys.readouterr().err


def test_benchmark_with_other_settings_does_not_go_on(sets, cheap, capsys):
    before = read(cheap)
    assert benchmark(sets, cheap, f"{CHEAP} --lr 0.5") == 1
    told = capsys.readouterr().err
    assert "other settings (lr was 0.02, is 0.5); give the same ones, another --output-dir, or --restart" in told
    assert read(cheap) == before


def test_benchmark_goes_on_to_more_and_compares(sets, cheap, whole, capsys):
    """With what is measured already, or not; a table is no results file."""
    more = f"--shots 1 2 --methods baselines --compare {whole / 'results.json'}"
    assert benchmark(sets, cheap, f"{CHEAP} {more}") == 0
    told = capsys.readouterr().out
    assert "Difference in points, 1 shot:" in told
    assert "| class mean | +0.0 | +0.0 |" in told
    assert len(read(cheap)["cells"]) == 12
    assert benchmark(sets, cheap, f"--compare {cheap / 'table.md'}") == 1


def test_benchmark_restart_discards(sets, cheap):
    assert benchmark(sets, cheap, "--methods baselines --restart --num-trials 2", names=["parted"]) == 0
    assert {data for data, *_ in figures(cheap)} == {"parted"}


@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_processes_share_all_cells_evenly(count):
    costs = {cells.Cell("x", 1, number, "TI"): Cost(trained=calls) for number, calls in enumerate((5, 90, 7, 7, 40, 3))}
    shares = [_share(costs, DistributedContext(index, count)) for index in range(count)]
    assert sorted(cell.seed for share in shares for cell in share) == list(range(6))
    loads = [sum(costs[cell].calls for cell in share) for share in shares]
    assert max(loads) - min(loads) <= 90  # the longest cell


def started(sets, out, *launcher):
    line = [sys.executable, *launcher, "-m", "mcti_core", *benchmark_line(sets, out).split()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true"}
    return subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
def test_benchmark_killed_goes_on(sets, whole, tmp_path):
    file = tmp_path / "results.json"
    process = started(sets, tmp_path)
    while not (file.exists() and len(read(tmp_path)["cells"]) > 2) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert 2 < len(read(tmp_path)["cells"]) < 10
    again = started(sets, tmp_path)
    told, _ = again.communicate(timeout=300)
    assert again.returncode == 0, told[-3000:]
    # the whole table was made in this process, with another number of threads, which sum in another order
    assert numbers(tmp_path) == pytest.approx(numbers(whole), rel=1e-3)


@pytest.mark.slow
def test_benchmark_shared_by_two_processes_finds_the_same(sets, whole, tmp_path):
    launcher = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--main_process_port", "0"]
    process = started(sets, tmp_path, *launcher)
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 0, told[-3000:]
    assert figures(tmp_path).keys() == figures(whole).keys()
    assert not list(tmp_path.glob("*part*"))


@pytest.mark.parametrize("error", [UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), ValueError("bad key"), RuntimeError("x"), AttributeError("y")])  # fmt: skip
def test_matplotlib_that_does_not_start_is_a_sentence_before_any_work(tmp_path, monkeypatch, capsys, error):
    """As with a ``matplotlibrc`` in the current folder that it cannot read."""

    class Broken:
        def find_spec(self, name, path=None, target=None):
            if name == "matplotlib":
                raise error

    monkeypatch.delitem(sys.modules, "matplotlib", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    assert run(f"benchmark --output-dir {tmp_path / 'out'} --data-sets digits") == 1
    assert "is there a matplotlibrc in this folder?" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
