"""Options from a file mean what they mean on the command line, and the file that a run writes repeats it."""

import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mcti_core.cli.option_checks import check_options
from mcti_core.cli.options import config_of, hflip_of
from mcti_core.cli.parser import _parser, _train_parser, main
from mcti_core.cli.run_config import with_config, write_run_config
from mcti_core.errors import ConfigError
from mcti_core.tokens.io import load_tokens

tomllib = pytest.importorskip("tomllib")  # since Python 3.11


def parsed(*words):
    return _parser().parse_args(["train", *words])


def expanded(path, text, *words):
    """The command line that a file and these words make."""
    path.write_text(text, encoding="utf-8")
    return with_config(_train_parser(), ["--config", str(path), *words])


@pytest.fixture
def path(tmp_path):
    return tmp_path / "run.toml"


def test_file_says_any_option_as_the_command_line_does(path):
    text = """
    folder = "photos"
    output-dir = "my set"
    steps = 7
    lr = 1e-05
    gamma = "auto"
    keep-norm = true
    gradient_checkpointing = false
    hflip = false
    template = ["a {}", "-- {} \\u00e9"]
    initializer-token = "-cat"
    """
    arguments = parsed(*expanded(path, text))
    line = "photos --steps 7 --lr 1e-5 --gamma auto --keep-norm --no-hflip --initializer-token=-cat --config"
    templates = ["--template", "a {}", "--template=-- {} é"]
    assert vars(arguments) == vars(parsed(*line.split(), str(path), "--output-dir", "my set", *templates))


def test_command_line_wins_over_the_file(path):
    text = 'folder = "photos"\noutput-dir = "a"\nsteps = 7\ntemplate = ["a {}"]\nhflip = true\n'
    words = "others --output-dir b --steps 9 --templates style --no-hflip"
    arguments = parsed(*expanded(path, text, *words.split()))
    assert (arguments.folder, arguments.output_dir, arguments.steps) == (Path("others"), Path("b"), 9)
    assert (arguments.template, arguments.templates, arguments.hflip) == (None, "style", False)


def test_path_in_a_file_is_never_an_option(path):
    assert parsed(*expanded(path, 'folder = "--overwrite"\noutput-dir = "--restart"')).overwrite is False


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("stepz = 3", "sets 'stepz', which is no option of mcti train"), ("steps = true", "'steps' to 'True'; it must be a text or a number"),
        ('keep-norm = "yes"', "'keep_norm' to 'yes'; it must be true or false"), ("steps = [1, 2]", "must be a text or a number"), ("template = [[1]]", "a number"),
        ("[train]\nsteps = 1", "'train', which is no option"), ("day = 2026-01-01", "'day'"), ("seed = 2026-01-01", "must be a text or a number"), ('config = "other.toml"', "'config'"),
        ("steps = ", "cannot be read as a TOML file"), ("help = true", "'help'"), ("x = " + "[" * 9999, "cannot be read|no option"), ("#" * (2**20 + 1), "larger than 1 MiB"),
    ],
)  # fmt: skip
def test_file_of_something_else_is_refused(path, text, sentence):
    with pytest.raises(ConfigError, match=sentence):
        expanded(path, text)


def test_value_out_of_range_is_refused_as_on_the_command_line(path, capsys):
    words = expanded(path, "steps = 0")
    with pytest.raises(SystemExit):
        parsed("x", "--output-dir", "y", *words)
    assert "argument --steps: must be a whole number from 1" in capsys.readouterr().err


def test_folder_or_missing_file_is_refused(tmp_path, capsys):
    for wrong in (tmp_path, tmp_path / "none.toml"):
        assert main(["train", "x", "--output-dir", "y", "--config", str(wrong)]) == 1
        assert "cannot be read as a TOML file of options" in capsys.readouterr().err


def test_python_without_a_reader_of_toml_says_what_to_install(path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tomllib", None)
    monkeypatch.setitem(sys.modules, "tomli", None)
    with pytest.raises(ConfigError, match=r"Python 3\.11 or the package tomli"):
        expanded(path, "steps = 1")
    monkeypatch.setitem(sys.modules, "tomli", tomllib)
    assert expanded(path, "steps = 1")[0] == "--steps=1"


@pytest.mark.parametrize(
    "line",
    [
        ["a folder/\x7f\"q\" \\ \n 猫 \U0001f431", "--output-dir", "x"], ["f", "--output-dir", "x", "--gamma", "0.25", "--gamma-end", "1e-4", "--keep-norm", "--hflip", "--initializer-token", "cat"],
        ["f", "--output-dir", "x", "--gamma", "0", "--templates", "style", "--shots", "3", "--save-every", "0", "--dtype", "bf16"], ["f", "--output-dir", "x", "--template", 'a "{}"', "--num-vectors", "4"],
        ["f", "--output-dir", "x", "--captions", "--masks", "alpha", "--buckets", "--report-to", "csv,tensorboard", "--validation-prompt", "{} a", "--validation-prompt=-b"],
    ],
)  # fmt: skip
def test_written_file_reads_back_as_the_same_run(path, line):
    check_options(first := parsed(*line))
    write_run_config(first, config_of(first), path)
    again = parsed(*expanded(path, path.read_text(encoding="utf-8")))
    check_options(again)
    assert config_of(again) == config_of(first)
    assert again.hflip is hflip_of(first)
    others = {"config", "template", "templates", "hflip", *vars(config_of(first))}
    assert {k: v for k, v in vars(again).items() if k not in others} == {k: v for k, v in vars(first).items() if k not in others}  # fmt: skip


def test_path_that_toml_cannot_express_leaves_no_file(path, capsys):
    first = parsed("f\udce9", "--output-dir", "x")
    write_run_config(first, config_of(first), path)
    assert not path.exists()
    assert "no run.toml: the path of an option is not UTF-8" in capsys.readouterr().err


def test_run_of_a_written_file_learns_the_same_tokens(tmp_path, monkeypatch, capsys):
    random = np.random.default_rng(0)
    for number in range(4):
        place = tmp_path / "photos" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(place / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    assert main(["train", "photos", "--output-dir", "first", "--steps", "2", "--batch-size", "2", "--seed", "5"]) == 0
    assert main(["train", "--config", "first/run.toml", "--output-dir", "second"]) == 0
    first, second = (load_tokens(tmp_path / name / "tokens.safetensors") for name in ("first", "second"))
    assert torch.equal(first.vectors["clip_l"], second.vectors["clip_l"])
    assert first.training == second.training
    written = tomllib.loads(Path("second/run.toml").read_text(encoding="utf-8"))
    assert written == {**tomllib.loads(Path("first/run.toml").read_text(encoding="utf-8")), "output-dir": "second"}
    card = Path("first/README.md").read_text(encoding="utf-8")
    assert "examples recognised by CLIP" in card
    assert "reconstruction loss, mean of the last 1 steps" in card
    assert main(["train", "--config", "first/run.toml"]) == 1
    assert "already exists; replace it with --overwrite" in capsys.readouterr().err
    assert main(["train", "--config", "first/run.toml", "--overwrite"]) == 0
    Path("first/README.md").write_text("mine", encoding="utf-8")
    assert main(["train", "--config", "first/run.toml", "--overwrite"]) == 1
    assert "README.md already exists and was not written by MC-TI" in capsys.readouterr().err


NEST = "template" + ".a" * 5000


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("steps = 0x" + "f" * 20_000, "'steps' to a number of more than 30 digits"), ("seed = 0o" + "7" * 5000, "'seed' to a number"),
        ("overwrite = 0b" + "1" * 100_000, "'overwrite' to a number"), ("output-dir = 0x" + "f" * 5000, "'output_dir' to a number"),
        ("template = [0x" + "f" * 5000 + "]", "'template' to a number"), ("folder = 0x" + "f" * 99, "'folder' to a number"),
        ("template = [" + "'a {}'," * 1001 + "]", "'template' to 1,001 values; give at most 1,000"), ("validation-prompt = [" + "'a'," * 99_999 + "]", "99,999"),
        (NEST + " = 1", "more than 16 parts"), (f"x = 1\n[{NEST}]", "16 parts"), (f"[[{NEST}]]", "16 parts"), (f"gamma = {{{NEST} = 1}}", "16 parts"),
        ("gamma = {b = 1,\t" + NEST + " = 1}", "16 parts"), ("""'a"b'""" + ".'c d'" * 5000 + "=1", "16 parts"), (r'"\""' + r' . "\""' * 5000 + "=1", "16 parts"),
        ("a" + " \t.\t a-_9" * 17 + "=1", "16 parts"), ("gamma" + ".a" * 15 + " = 1", "'gamma' to a dict"),
        ("gamma = " + "{a = " * 200 + "1" + "}" * 200, "'gamma' to a dict"), ("steps = " + "[" * 200 + "]" * 200, "'steps' to a list"),
    ],
)  # fmt: skip
def test_file_that_claims_much_is_refused_at_once(path, text, reason):
    begun = time.process_time()
    with pytest.raises(ConfigError, match=reason):
        expanded(path, text)
    assert time.process_time() - begun < 2


@pytest.mark.parametrize(
    "text",
    [
        "initializer-token = '" + "a.b.c." * 100 + "'", "template = [" + "'a photo. of {}. ', " * 999 + "'{}']", "x" * 2**19, '"' + r"\"" * 2**18,
        "a = '''" + '" ' * 2**18 + "'''", "a" + " " * 2**19, "'" * 2**19, "\t." * 2**18, r'{"\\' * 2**17, '["' + "a" * 2**19, " ".join(["a.b.c.d"] * 2**15),
    ],
)  # fmt: skip
def test_search_for_long_keys_takes_linear_time_and_finds_none_in_values(path, text):
    begun, told = time.process_time(), ""
    try:
        expanded(path, text)
    except ConfigError as error:
        told = str(error)
    assert "16 parts" not in told
    assert time.process_time() - begun < 2
