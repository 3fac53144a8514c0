"""Runs every command in the README and the docs, or lists it with the reason why not; checks its options with the program that it calls."""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import threading
import warnings
from dataclasses import replace
from http.server import HTTPServer
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import pytest
from PIL import Image

import mcti_core.pocket
from mcti_core.cli.parser import _parser, main
from mcti_core.pocket import POCKET_FOLDER
from mcti_core.tokens.io import load_tokens

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "web" / "docs").rglob("*.md")), *sorted((ROOT / "mcti_core").rglob("*.md")),
]  # fmt: skip
NOT_RUN = {  # what a command begins with: why it is not run here
    "python3 -m venv": "installs packages; .ci/run begins with it",
    "pip install": "installs packages",
    "pre-commit install": "changes the repository; .ci/run runs pre-commit",
    "mkdocs serve": "does not end; .ci/run builds the site",
    "COMFYUI_PATH=~/ComfyUI python -m pytest -m host": "needs ComfyUI, and is what runs its tests",
    "python -m tests.hosts.": "needs ComfyUI, and a GPU or hours",
    "python -m benchmarks.": "takes minutes to hours; tests/benchmarks runs each on small shapes",
    "python docs/adding_a_class.py": "takes an hour",
    "python docs/examples/": "run by tests/end_to_end/test_examples.py",
    "TOKENS=learned.safetensors uvicorn": "starts a server; test_examples.py sends requests to the same application",
    "curl -": "needs a server; test_examples.py and tests/hosts/test_server_workflows.py send the same requests",
    "python docs/gallery.py": "needs the demo's tokens; tests/pocket/test_docs_scripts.py draws some",
    "python -m tests.end_to_end.kill_and_resume": "takes half an hour; test_resume.py runs three kills of it",
    "python -m tests.fuzz": "takes minutes; tests/fuzz/test_fuzz.py runs a part of it",
    "python -m mcti_core.pocket.recipe": "trains the pocket checkpoint for hours",
    "python -m mcti_core.pocket.digits": "writes 1,797 images; test_digits.py writes some",
    "accelerate launch --multi_gpu --num_processes 8": "needs several machines",
    "tensorboard --logdir": "serves a page until it is stopped; tests/training/test_trackers.py reads the files",
    "mcti convert": "run by test_convert.py with embeddings of other programs",
    "mcti demo": "run by test_demo.py",
}
FEWER = {  # of a command: options behind its own, so that it takes a moment
    "train": "--steps 1 --batch-size 2", "add": "--steps 1 --batch-size 2", "evaluate": "--steps 1 --batch-size 2 --seeds 1 --shots 1", "generate": "--num-inference-steps 1 --num-images 1",
    "benchmark": "--steps 1 --batch-size 2 --shots 1 --data-sets photos --methods baselines",
    "classify": "", "undo": "", "evaluate --tokens": "", "evaluate --label-errors": "", "evaluate --folds": "--steps 1 --batch-size 2 --folds 2",
}  # fmt: skip
LEAST = {  # of a command: arguments that it cannot be without
    "train": "x --output-dir y", "add": "x --tokens y --output-dir z", "evaluate": "x", "generate": "--tokens x --prompt y", "classify": "x --tokens y",
    "convert": "x --format set --output y", "demo": "--output-dir x", "undo": "x", "benchmark": "--output-dir x",
}  # fmt: skip
OF_OTHERS = {
    *("--multi_gpu", "--num_processes", "--num_machines", "--machine_rank", "--main_process_ip", "--main_process_port"),  # accelerate's
    *("--disable-dynamic-vram", "--enable-dynamic-vram", "--gpu-only", "--highvram", "--lowvram", "--novram"),  # ComfyUI's
    *("--strict", "--quiet", "--data-binary"),  # mypy's, pip's, curl's
}  # fmt: skip
PROGRAMS = ("mcti", "python", "python3", "pip", "accelerate", "torchrun", "git", "curl")


def shell_lines() -> list[str]:
    """Every line of every block that is not of another language, without comments."""
    blocks = [
        found[2] for path in DOCUMENTS for found in re.finditer(r"^```(\w*)\n(.*?)^```", text(path), re.M | re.S) if found[1] not in ("python", "json", "toml")
    ]  # fmt: skip
    lines = [line for block in blocks for line in block.replace("\\\n", "").splitlines()]
    return list(dict.fromkeys(line for line in map(str.strip, lines) if line and not line.startswith("#")))


def spans() -> list[str]:
    """Every piece of code within a sentence."""
    prose = [re.sub(r"^```.*?^```", "", text(path), flags=re.M | re.S) for path in DOCUMENTS]
    return list(dict.fromkeys(span for part in prose for span in re.findall(r"`([^`\n]+)`", part)))


def text(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def sentences() -> list[str]:
    """Whole commands within sentences; what is shortened by dots names options only."""
    return [span for span in spans() if span.split()[0] in PROGRAMS and len(span.split()) > 1 and "..." not in span]


def is_listed(command: str) -> bool:
    return any(command.startswith(beginning) for beginning in NOT_RUN)


LINES = list(dict.fromkeys([*shell_lines(), *sentences()]))
RUN = [line for line in LINES if line.startswith("mcti ") and not is_listed(line)]
WHOLE = [line for line in RUN if line in shell_lines() or re.match(r"mcti [a-z]+ [^-]", line)]
"""Without those that only name a command and an option."""
LAUNCHED = [line for line in shell_lines() if line.startswith("accelerate ") and not is_listed(line)]
MODULES = [line for line in LINES if re.match(r"python -m (?!pytest)", line)]


@pytest.mark.parametrize("line", shell_lines())
def test_command_in_a_block_is_run_or_listed(line):
    assert line in WHOLE or line in LAUNCHED or is_listed(line), "run it here, or add it to NOT_RUN with the reason"


@pytest.mark.parametrize("beginning", NOT_RUN)
def test_listed_command_is_in_the_docs(beginning):
    assert any(line.startswith(beginning) for line in [*shell_lines(), *spans()]), "take it out of NOT_RUN"


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """The files that the docs name: photos of two things, others to add and to classify, and the models' folders."""
    folder = tmp_path_factory.mktemp("docs")
    random = np.random.default_rng(0)
    for place in ("photos/my-cat", "photos/my-dog", "held-out/my-cat", "held-out/my-dog", "more/fox", "more/owl", "more-photos/fox", "more-photos/owl", "inbox", "masks/my-cat"):  # fmt: skip
        (folder / place).mkdir(parents=True)
        for number in range(6):
            Image.fromarray(random.integers(0, 256, (64, 64, 3), np.uint8)).save(folder / place / f"{number}.png")
    (folder / "photos/my-cat/0.txt").write_text("a photo of {} on a sofa")
    for mask in ("photos/my-cat/0-masklabel.png", "masks/my-cat/0.png"):
        Image.new("L", (64, 64), "white").save(folder / mask)
    (folder / "corrections.csv").write_text("image,label\ninbox/0.png,my-cat\nphotos/my-dog/0.png,(unknown)\n")
    (folder / "stable-diffusion-v1-5").symlink_to(POCKET_FOLDER, target_is_directory=True)
    (folder / "clip-vit-large-patch14").symlink_to(POCKET_FOLDER / "clip", target_is_directory=True)
    line = next(line for line in WHOLE if line.startswith("mcti train photos/ --output-dir learned "))
    before = os.getcwd()
    os.chdir(folder)
    try:
        assert main([*arguments_of(line), *FEWER["train"].split()]) == 0
    finally:
        os.chdir(before)
    return folder


def fewer(words: list[str]) -> list[str]:
    command = next((f"{words[0]} {word}" for word in words if f"{words[0]} {word}" in FEWER), words[0])
    return FEWER[command].split()


def arguments_of(line: str) -> list[str]:
    return shlex.split(line, comments=True)[1:]


@pytest.fixture
def there(material, tmp_path, monkeypatch):
    """A copy of the files to run a command beside."""
    folder = tmp_path / "there"
    shutil.copytree(material, folder, symlinks=True)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize("line", WHOLE)
def test_documented_command_runs(line, there, capsys):
    command, *others = arguments_of(line)
    if command == "train" and "--output-dir learned" in line and "--config" not in others:
        shutil.rmtree("learned")
    if command == "undo":
        assert main(["classify", "inbox", "--tokens", "learned", "--copy-to", "sorted"]) == 0
    assert main([command, *others, *fewer([command, *others])]) == 0, capsys.readouterr().err


def test_curation_page_runs_from_top_to_bottom(there, capsys):
    """Each command where the ones above it have left the files."""
    page = text(ROOT / "docs" / "curate.md")
    lines = [line for block in re.findall(r"^```bash\n(.*?)^```", page, re.M | re.S) for line in block.splitlines()]
    for line in lines:
        words = arguments_of(line)
        assert main([*words, *fewer(words)]) == 0, capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("line", LAUNCHED)
def test_documented_launch_runs(line, there):
    """With a port that is free, and the pocket checkpoint where the line is shortened by dots."""
    words = shlex.split(line.replace(" --model ...", ""))[2:]
    command = words[words.index("mcti_core") + 1]
    if command == "train":
        shutil.rmtree("learned")
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--main_process_port", "0", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*launch, *FEWER[command].split()], env=environment, capture_output=True, text=True, timeout=240, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


class _ParserError(Exception):
    """Stops a program that is about to parse its arguments, and holds its parser."""


@functools.cache
def parser_of(module: str) -> argparse.ArgumentParser:
    """What ``python -m MODULE`` parses its arguments with."""

    def found(self, *given, **named):
        raise _ParserError(self)

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*found in sys.modules", RuntimeWarning)
        patch.setattr(argparse.ArgumentParser, "parse_args", found)
        patch.setattr(sys, "argv", [module])
        with pytest.raises(_ParserError) as stopped:
            runpy.run_module(module, run_name="__main__")
    return stopped.value.args[0]


@pytest.mark.parametrize("line", MODULES)
def test_module_takes_the_documented_options(line):
    module, *others = arguments_of(line)[1:]
    parser = parser_of(module)
    last = parser._option_string_actions.get(others[-1]) if others else None
    if last is not None and last.nargs is None:  # a sentence names the option alone
        others.append("1")
    if others:  # else a sentence names the module alone
        parser.parse_args(others)


def commands() -> dict[str, argparse.ArgumentParser]:
    (action,) = [a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return dict(action.choices)


def options() -> list[str]:
    """Every option in a sentence, with what is behind it."""
    option = r"(?<!\S)--[a-z][\w-]*( (?!-)\S+)?"
    return sorted({found[0].strip() for span in spans() for found in re.finditer(option, span)})


@pytest.mark.parametrize("written", options())
def test_documented_option_is_one(written):
    """Of a command or a module that the docs name, with that value; or of another program."""
    option, *values = written.split()
    values = ["1" if value.isupper() or value == "..." else value for value in values]
    takes = [name for name, parser in commands().items() if option in parser._option_string_actions]
    modules = {arguments_of(line)[1] for line in MODULES}
    assert option in OF_OTHERS or takes or any(option in parser_of(m)._option_string_actions for m in modules)
    if takes and values:
        assert any(parses([name, *LEAST[name].split(), option, *values]) for name in takes)


def parses(arguments: list[str]) -> bool:
    try:
        _parser().parse_args(arguments)
    except SystemExit:
        return False
    return True


def test_readme_s_library_example_runs(there, monkeypatch):
    (block,) = re.findall(r"^```python\n(.*?)^```", text(ROOT / "README.md"), re.M | re.S)
    config = replace(mcti_core.pocket.POCKET_CONFIG, steps=1, batch_size=2)
    monkeypatch.setattr(mcti_core.pocket, "POCKET_CONFIG", config)
    names: dict[str, object] = {}
    quick = block.replace("tokens.names], tokens)", "tokens.names], tokens, num_inference_steps=1)")
    exec(compile(quick, "README.md", "exec"), names)
    assert len(names["answers"]) == 1747
    assert len(names["pictures"]) == 10
    assert Path("tokens.safetensors").is_file()


@pytest.fixture
def page(there):
    """Runs all Python of a page of docs/, with fewer steps. Returns its names."""

    def run(name: str) -> dict[str, object]:
        blocks = re.findall(r"^```python\n(.*?)^```", text(ROOT / "docs" / name), re.M | re.S)
        names: dict[str, object] = {}
        exec(compile(re.sub(r"\bsteps=1\d\d\b", "steps=1", "\n".join(blocks)), name, "exec"), names)
        return names

    return run


def test_sharing_page_runs_and_its_file_is_one_of_options(page, there):
    page("sharing.md")
    assert load_tokens(there / "to-share" / "tokens.safetensors").labels == ("my-cat", "my-dog")
    (block,) = re.findall(r"^```toml\n(.*?)^```", text(ROOT / "docs" / "sharing.md"), re.M | re.S)
    Path("mine.toml").write_text(block, encoding="utf-8")
    shutil.rmtree("learned")
    assert main(["train", "--config", "mine.toml", *FEWER["train"].split()]) == 0


def test_own_host_page_learns_draws_and_classifies(page):
    names = page("own-host.md")
    for picture, colour in zip(names["pictures"], ((0.85, 0.15, 0.15), (0.15, 0.15, 0.85)), strict=True):
        assert picture.mean((1, 2)).tolist() == pytest.approx(colour, abs=0.15)
    assert names["accuracies"] == {"clip": 1.0, "hybrid": 1.0, "diffusion": 1.0}
    assert names["reddish"].tolist() == pytest.approx([0.85, 0.15, 0.15], abs=0.15)
    assert names["bluish"].tolist() == pytest.approx([0.15, 0.15, 0.85], abs=0.15)
    assert names["answer"].label == "bright"


def test_library_page_runs_and_answers_a_web_request(page):
    names = page("library.md")
    assert len(names["answers"]) == 3
    assert names["examples"].classes == ("zero", "one", "two")
    assert names["picture"].size == (64, 64)
    names["Classify"].log_message = lambda *values: None
    with HTTPServer(("127.0.0.1", 0), names["Classify"]) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        answer = json.load(urlopen(address, data=Path("inbox/0.png").read_bytes(), timeout=30))
        with pytest.raises(HTTPError, match="400") as refused:
            urlopen(address, data=b"no image", timeout=30)
        refused.value.close()
        server.shutdown()
    assert answer["label"] in ("my-cat", "my-dog")
