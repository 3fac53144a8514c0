"""Two real processes, started by Hugging Face Accelerate, give the results of one."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mcti_core.cli.parser import main
from mcti_core.tokens.io import load_tokens
from mcti_core.training.checkpoint import load_checkpoint

from .command_line import run
from .kill_and_resume import write_examples
from .run_processes import CLASSIFY, ROOT, TRAIN, commands

SECONDS = 240
"""Nothing here takes so long, but where one process waits for ever for another."""
IMAGES = 31
LAUNCH = [
    sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1", "--mixed_precision", "no",
    "--dynamo_backend", "no", "--main_process_port", "0", "--num_processes",
]  # fmt: skip
"""``--multi_gpu`` is how accelerate starts several processes on one machine, on CPUs as well."""

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes are watched in POSIX's way")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As many as each launched process has: with others, sums are rounded otherwise."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """``examples/``, ``images/`` of which one cannot be read, and tokens."""
    path = tmp_path_factory.mktemp("things")
    examples = write_examples(path / "examples")
    write_images(path / "images", examples, IMAGES)
    (path / "images" / "00007.png").write_bytes(b"no picture")
    assert run(f"train {examples} --output-dir {path / 'trained'} --steps 3 --batch-size 3") == 0
    (path / "trained" / "tokens.safetensors").rename(path / "tokens.safetensors")
    return path


def write_images(folder, examples, count):
    folder.mkdir()
    some = sorted(examples.glob("*/*.png"))
    for number in range(count):
        shutil.copy(some[number * 5 % len(some)], folder / f"{number:05d}.png")


def launch(count, *arguments, **options):
    """A launcher of so many processes, and all that it starts, in a session of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*LAUNCH, str(count), *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )


def children(pid):
    """Of a process, and theirs: (pid, command line)."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1]) if entry.name.isdecimal() else -1
            line = (entry / "cmdline").read_bytes() if parent == pid else b""
        except OSError:  # it has ended meanwhile
            continue
        if parent == pid:
            found += [(int(entry.name), line), *children(int(entry.name))]
    return found


def until(condition, process):
    """Wait; what a process says when it ends before that is in the message."""
    started = time.monotonic()
    while not condition():
        ended = process.poll()
        assert ended is None, process.communicate()[0]
        assert time.monotonic() - started < SECONDS
        time.sleep(0.005)


@pytest.fixture(scope="module")
def both(folder, tmp_path_factory):
    """What one process has written, and what two have."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    codes = {name: main(arguments) for name, arguments in commands(folder, one).items()}
    assert codes == {"train": 0, "evaluate": 0, "classify": 1}  # 1: an image could not be read
    with launch(2, Path(__file__).with_name("run_processes.py"), folder, two) as process:
        output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output
    (two / "output.txt").write_text(output)
    return one, two, codes


def test_collective_calls_exchange_the_values_of_all_processes(both):
    _, two, codes = both
    for index in range(2):
        seen = json.loads((two / f"seen-{index}.json").read_text())
        assert seen["codes"] == codes
        sums, values, nothing, flags, rows, none, place = seen["exchanged"]
        assert sums == [[[3.0] * 3] * 2, pytest.approx(0.3), [], [3.0]]
        assert values == [{"ä": [0] * 50}, {"ä": [1] * 100}]
        assert nothing == [None, None]
        assert flags == [False, True, True]
        assert rows == torch.arange(40.0).view(-1, 4).tolist()
        assert none == []
        assert place == [index, 2, 2, index == 0]


def test_train_by_two_processes_gives_the_same_tokens(both):
    one, two, _ = both
    first, second = (load_tokens(out / "trained" / "tokens.safetensors") for out in (one, two))
    for name, vectors in first.vectors.items():
        assert (vectors - second.vectors[name]).abs().max() < 1e-5
    assert torch.equal(first.support.features, second.support.features)
    gammas = [tokens.training.pop("gamma_last") for tokens in (first, second)]
    assert gammas[0] == pytest.approx(gammas[1], rel=1e-4)
    assert first.training == second.training
    names = [{path.name for path in (out / "trained").iterdir()} for out in (one, two)]
    assert names[0] == names[1] == {"embeddings", "loss.png", "README.md", "run.toml", "tokens.safetensors"}
    caches = [sorted((out / "cache").iterdir()) for out in (one, two)]
    assert [path.name for path in caches[0]] == [path.name for path in caches[1]]
    assert [path.read_bytes() for path in caches[0]] == [path.read_bytes() for path in caches[1]]


def test_evaluate_by_two_processes_gives_the_same_rows(both):
    one, two, _ = both
    tables = [json.loads((out / "rows.json").read_text()) for out in (one, two)]
    for table in tables:
        for row in table["rows"]:
            assert row.pop("seconds") >= 0
    assert tables[0] == tables[1]
    assert len(tables[0]["rows"]) == 2 * 2 * 7


def test_classify_by_two_processes_writes_the_same_answers(both):
    one, two, _ = both
    assert (two / "answers.jsonl").read_bytes() == (one / "answers.jsonl").read_bytes()
    records = [json.loads(line) for line in (one / "answers.jsonl").read_text().splitlines()]
    assert [Path(record["image"]).name for record in records] == [f"{number:05d}.png" for number in range(IMAGES)]
    assert ["error" in record for record in records].index(True) == 7
    assert sorted(path.name for path in two.iterdir() if "answers" in path.name) == ["answers.jsonl"]


def test_messages_of_two_processes_are_those_of_the_first(both):
    _, two, _ = both
    output = (two / "output.txt").read_text()
    assert output.count("3 tokens in") == 1
    assert output.count("| chance |") == 1
    assert output.count(f"{IMAGES} answers in") == 1
    assert "process 1" not in output
    for bar in ("training", "classifying"):  # a bar begins once
        assert len(re.findall(f"{bar}: +0%", output)) == 1


@pytest.mark.slow
def test_classify_by_two_killed_processes_is_resumed_by_one(folder, tmp_path):
    """SIGKILL, which no program can answer."""
    images, out = tmp_path / "images", tmp_path / "answers.jsonl"
    write_images(images, folder / "examples", 400)
    command = ["classify", str(images), "--tokens", str(folder / "tokens.safetensors"), "--output", str(out), *CLASSIFY]

    def parts():
        files = (out, out.with_name(f"{out.name}.part-00001"))
        return [path.read_bytes().splitlines() for path in files if path.exists()]

    def written():
        return sum(map(len, parts()))

    with launch(2, "-m", "mcti_core", *command) as process:
        until(lambda: written() > 20, process)
        for pid, _ in [(process.pid, b""), *children(process.pid)]:
            os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=SECONDS)
    kept = written()
    assert 20 < kept < 400
    shares = [{line.partition(b",")[0] for line in part} for part in parts()]
    assert len(shares) == 2
    assert not shares[0] & shares[1]
    assert main(command) == 1  # not without being asked to
    assert written() == kept
    assert main([*command, "--resume"]) == 0
    assert main([part if part != str(out) else str(tmp_path / "whole.jsonl") for part in command]) == 0
    records = ([json.loads(line) for line in path.read_text().splitlines()] for path in (out, tmp_path / "whole.jsonl"))
    resumed, whole = ([(record["image"], record["label"]) for record in each] for each in records)
    assert sorted(resumed) == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.jsonl", "images", "whole.jsonl"]


@pytest.mark.slow
def test_train_by_two_interrupted_processes_is_resumed_by_one_or_two(folder, tmp_path):
    """As Ctrl-C in a terminal: the signal reaches the launcher. One process alone can go on, and two."""
    options = ["--batch-size", "5", "--seed", "5", "--steps", "64", "--save-every", "1"]
    command = ["train", str(folder / "examples"), "--output-dir", str(tmp_path / "out"), *options]
    with launch(2, "-m", "mcti_core", *command) as process:
        until(lambda: (tmp_path / "out" / "training.safetensors").exists(), process)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode != 0
    (told,) = re.findall(r"interrupted after (\d+) steps", output)
    steps = load_checkpoint(tmp_path / "out" / "training.safetensors").step
    assert 0 < steps <= int(told) < 64
    shutil.copytree(tmp_path / "out", tmp_path / "copy")
    with launch(2, "-m", "mcti_core", *command, "--resume") as process:
        output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output
    assert output.count(f"resuming after {steps} steps") == 1
    command[3] = str(tmp_path / "copy")
    assert main([*command, "--resume"]) == 0
    command[3] = str(tmp_path / "whole")
    assert main(command) == 0
    folders = (tmp_path / name for name in ("whole", "out", "copy"))
    learned = [load_tokens(out / "tokens.safetensors").vectors["clip_l"] for out in folders]
    assert (learned[0] - learned[1]).abs().max() < 1e-4
    assert (learned[0] - learned[2]).abs().max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 3])
def test_train_as_in_the_readme_gives_the_same_tokens(folder, tmp_path, count):
    command = ["train", str(folder / "examples"), "--output-dir", str(tmp_path / "many"), *TRAIN]
    with launch(count, "-m", "mcti_core", *command) as process:
        output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output
    command[3] = str(tmp_path / "one")
    assert main(command) == 0
    learned = [load_tokens(tmp_path / name / "tokens.safetensors").vectors["clip_l"] for name in ("one", "many")]
    assert (learned[0] - learned[1]).abs().max() < 1e-5


@pytest.mark.slow
def test_error_of_one_process_ends_all_with_its_message(folder, tmp_path):
    """Of one process too: the others do not wait for ever."""
    (tmp_path / "answers.jsonl").write_text("here first")
    images = f"classify {folder / 'images'} --tokens {folder / 'tokens.safetensors'}"
    for line, told in (
        (f"{images} --output {tmp_path / 'answers.jsonl'}", f"mcti: {tmp_path / 'answers.jsonl'}"),
        (images, "name a file for the answers with --output"),
        (f"convert {folder / 'tokens.safetensors'} --output {tmp_path / 'x'} --format set", "without a launcher"),
    ):
        with launch(2, "-m", "mcti_core", *line.split()) as process:
            output, _ = process.communicate(timeout=SECONDS)
        assert process.returncode != 0
        assert told in output
    assert (tmp_path / "answers.jsonl").read_text() == "here first"
