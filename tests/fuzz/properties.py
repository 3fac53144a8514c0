"""Properties of every input: a result or an ``MCTIError``, and no side effects."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import sys
import unicodedata
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch

from mcti_core.cli.options import config_of
from mcti_core.cli.parser import _parser, main
from mcti_core.data.dataset import FewShotDataset
from mcti_core.errors import MCTIError
from mcti_core.escaping import escaped
from mcti_core.files.limits import MAX_CLASSES, MAX_TEMPLATES
from mcti_core.images.reading import load_image
from mcti_core.tokens.formats import read_embedding
from mcti_core.tokens.io import (
    export_embeddings,
    import_embeddings,
    is_own_file,
    is_token_set,
    load_tokens,
    save_tokens,
)
from mcti_core.tokens.names import check_name, safe_names, safe_parts
from mcti_core.tokens.ops import merge, rename, select
from mcti_core.tokens.token_set import TokenSet
from mcti_core.training.checkpoint import load_checkpoint
from mcti_core.training.config import TrainConfig
from mcti_core.training.resume import describe_differences

from . import options, outputs, prompts
from .folders import check_folder, make_folder, make_irregular
from .mutations import (
    NUMBERS,
    TEXTS,
    any_json,
    archive_changed,
    bytes_changed,
    header_changed,
    hostile_pickle,
    metadata_changed,
    png_changed,
    scans_added,
)
from .seeds import MARKER, exif_blocks, image_files, safetensors_files, token_set, torch_files

__all__ = ["KINDS", "Broken", "Inputs", "watch"]

KINDS = ("token files", "images", "settings", "prompts", "folders", "options", "outputs")


_done: list[str] = []
"""What ``watch`` has seen; kept, since readers swallow exceptions."""


class Broken(Exception):  # noqa: N818 - of a law
    """An input did what no input may do."""


class Inputs:
    """Makes inputs and holds them to the law.

    Args:
        folder: the only place where anything may be written.
        begin: called when an input is made and what it is fed to begins.
    """

    def __init__(self, folder: Path, begin: Callable[[], object] = lambda: None):
        self.begin = begin
        self.folder, self.given, self.out = folder, folder / "given", folder / "out"
        self.given.mkdir(exist_ok=True)
        self.out.mkdir(exist_ok=True)
        self.safetensors, self.archives, self.images = safetensors_files(), torch_files(), image_files()
        self.exif = exif_blocks()

    def one(self, kind: str, seed: str) -> list[str]:
        """What became of one input: "read", or the class of the error, by each reader."""
        random = Random(seed)
        shutil.rmtree(self.given)
        self.given.mkdir()
        outcomes = {
            "token files": self.token_file,
            "images": self.image,
            "settings": self.setting,
            "options": self.option,
            "prompts": self.prompt,
            "folders": self.of_examples,
            "outputs": self.output,
        }[kind](random)
        self._nothing_else()
        return outcomes

    def token_file(self, random: Random) -> list[str]:
        content, suffix = self._token_content(random)
        path = self.given / random.choice((f"x{suffix}", f"learned_embeds{suffix}", f"é 猫{suffix}"))
        path.write_bytes(content)
        self.begin()
        is_token_set(path), is_own_file(path)
        asked: dict[str, Callable[[], object]] = {
            "embedding": lambda: self._embedding(random, path),
            "token set": lambda: self._token_set(random, path),
            "training": lambda: _training(random, path),
        }
        outcomes = [f"{name} {_outcome(ask)}" for name, ask in asked.items()]
        if random.random() < 0.2:
            self._converted(random, path)
        return outcomes

    def image(self, random: Random) -> list[str]:
        content = random.choice(self.images)
        if random.random() < 0.2:
            content = metadata_changed(random, self.exif)
        elif content.startswith(b"\x89PNG") and random.random() < 0.5:
            content = png_changed(random, content)
        elif content.startswith(b"\xff\xd8") and random.random() < 0.2:
            content = scans_added(random, content)
        elif random.random() < 0.97:
            content = bytes_changed(random, content, self.images)
        path = self.given / f"x{random.choice(('.png', '.jpg', '.webp', '.bmp'))}"
        if random.random() < 0.02:
            make_irregular(random, path)
        else:
            path.write_bytes(content)

        def read() -> None:
            self.begin()
            pixels = load_image(path)
            if pixels.ndim != 3 or pixels.shape[0] != 3 or pixels.dtype != torch.float32 or not pixels.numel():
                raise Broken(f"read as {pixels.dtype} {tuple(pixels.shape)}")
            some = pixels[:, :1000, :1000]
            if not (some.min() >= 0 and some.max() <= 1):
                raise Broken("pixels outside [0, 1]")

        return [_outcome(read)]

    def of_examples(self, random: Random) -> list[str]:
        make_folder(random, self.given, self.images)
        self.begin()

        def read() -> None:
            if wrong := check_folder(self.given):
                raise Broken(wrong)
            FewShotDataset.from_folder(self.given).fingerprint()

        return [_outcome(read)]

    def setting(self, random: Random) -> list[str]:
        kind = random.randrange(4)
        if kind == 3:
            return [f"sizes {outcome}" for outcome in self._large(random)]
        self._case([_config, _arguments, self._names][kind], random)
        self.begin()
        name = ("configuration", "arguments", "names")[kind]
        return [f"{name} {_outcome(lambda: (_config, _arguments, self._names)[kind](random))}"]

    def prompt(self, random: Random) -> list[str]:
        self._case(prompts.any_prompt, random)
        self.begin()
        prompts.every_spelling(random)
        return [_outcome(lambda: prompts.any_prompt(random))]

    def option(self, random: Random) -> list[str]:
        wrong: list[str | None] = []

        def given() -> None:
            with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
                wrong.append(options.any_option(random, self.given))

        self.begin()
        outcome = _outcome(given)
        if any(wrong):
            raise Broken(str(wrong[0]))
        return [f"option {outcome}"]

    def output(self, random: Random) -> list[str]:
        self._case(outputs.any_output, random)
        self.begin()
        return [outputs.any_output(random, self.out)]

    def _case(self, law: Callable[..., object], random: Random) -> None:
        (self.given / "case.txt").write_text(f"{getattr(law, '__name__', law)} {random.getstate()[1][:3]}\n")

    def _token_content(self, random: Random) -> tuple[bytes, str]:
        kind, every = random.randrange(10), self.safetensors + self.archives
        suffix = random.choice((".pt", ".bin"))
        if kind < 4:
            return header_changed(random, random.choice(self.safetensors + 3 * self.safetensors[-3:])), ".safetensors"
        if kind < 5:
            return bytes_changed(random, random.choice(self.safetensors), every), random.choice(
                (".safetensors", suffix)
            )
        if kind < 8:
            archives = [content for content in self.archives if content.startswith(b"PK")]
            return archive_changed(random, random.choice(archives), every), suffix
        if kind < 9:
            return bytes_changed(random, random.choice(self.archives), every), suffix
        if random.random() < 0.5:
            return hostile_pickle(random), suffix
        return random.choice((random.randbytes(random.randrange(300)), random.choice(every))), random.choice(
            (".safetensors", suffix)
        )

    def _embedding(self, random: Random, path: Path) -> None:
        found = read_embedding(path)
        for vectors in found.vectors.values():
            if vectors.dtype != torch.float32 or vectors.ndim != 2 or not vectors.isfinite().all():
                raise Broken(f"read as {vectors.dtype} {tuple(vectors.shape)}")
        self._used(random, import_embeddings([path]))

    def _token_set(self, random: Random, path: Path) -> None:
        tokens = load_tokens(path)
        _outcome(lambda: self._used(random, tokens))

    def _used(self, random: Random, tokens: Any) -> None:
        """All that a file's content can reach."""
        export_embeddings(tokens, self.out / "embeddings")
        again = load_tokens(save_tokens(tokens, self.out / "again"))
        if again.labels != tokens.labels or any(
            not torch.equal(again.vectors[e], v) for e, v in tokens.vectors.items()
        ):
            raise Broken("what was saved again is not what was read")
        for use in (
            lambda: select(tokens, [random.choice((0, -1, "a", *tokens.labels, *tokens.names))]),
            lambda: rename(tokens, {tokens.labels[0]: random.choice(TEXTS)}),
            lambda: merge(tokens, token_set()),
        ):
            _outcome(use)

    def _converted(self, random: Random, path: Path) -> None:
        arguments = [
            "convert",
            str(path),
            "--output",
            str(self.out / "new"),
            "--format",
            random.choice(("set", "embeddings")),
        ]
        arguments += random.choice(
            (
                [],
                ["--labels", _argument(random)],
                ["--select", _argument(random)],
                ["--rename", f"x={_argument(random)}"],
            )
        )
        _run(lambda: main(arguments))

    def _names(self, random: Random) -> None:
        """Names of a graph, and folders' names: whatever they are, files stay where they belong."""
        pieces = (
            *TEXTS,
            "..",
            ".",
            "/",
            "\\",
            "NUL",
            "com1",
            "LPT9",
            "aux.safetensors",
            "~",
            "C:",
            "\u2215",
            "\uff0e\uff0e",
            "a" * 300,
        )
        name = "".join(random.choice(pieces) for _ in range(random.randrange(1, 6)))
        parts = safe_parts(name)
        for part in parts:
            _plain_name(part)
        labels = [random.choice(pieces) for _ in range(5)]
        names = safe_names(labels)
        if len({each.casefold() for each in names}) != len(labels):
            raise Broken(f"{labels} become {names}")
        for each in names:
            _plain_name(each)
            check_name(each)
        _given_names(random, pieces, self.out)
        if sum(map(len, parts)) < 1000:
            save_tokens(token_set(), self.out.joinpath(*parts))

    def _large(self, random: Random) -> list[str]:
        """Files that claim more than they hold, and sets with more of everything than anybody has."""
        shape = tuple(
            random.choice((1, 2, 75, 76, 768, 8192, 10**6, 5 * 10**8, 10**12))
            for _ in range(random.choice((1, 1, 2, 2, 3)))
        )
        stride = tuple(random.choice((0, 0, 1, 768)) for _ in shape)
        stored = torch.zeros(random.choice((1, 768, 1536)), dtype=random.choice((torch.float32, torch.float16)))
        path = self.given / random.choice(("x.pt", "x.bin"))
        with contextlib.suppress(RuntimeError):  # no such view of so few numbers
            view = stored.as_strided(shape, stride)
            content = {random.choice(("emb_params", "clip_l", "<x>", "x")): view}
            torch.save(random.choice((content, {"string_to_param": {"*": view}}, view)), path)
        count, texts = random.choice((2, 3, 4096, 4097, 20_000, 200_000)), random.choice((1, 27, 1000, 1001, 200_000))
        word = random.choice(("x", "my cat", "x-2", random.choice(TEXTS), "x" * 1001))
        self.begin()
        outcomes = [f"embedding {_outcome(lambda: self._embedding(random, path))}"] if path.exists() else []

        def made() -> None:
            tokens = TokenSet((word,) * count, {"clip_l": torch.zeros(count, 1, 4)}, templates=("a {}",) * texts)
            if len(tokens) > MAX_CLASSES or len(tokens.templates) > MAX_TEMPLATES:
                raise Broken(f"{len(tokens)} classes and {len(tokens.templates)} templates")

        return [*outcomes, f"set {_outcome(made)}"]

    def _nothing_else(self) -> None:
        there = {path.name for path in self.folder.iterdir()} | {path.name for path in self.folder.parent.iterdir()}
        if _done:
            raise Broken(f"it did what no input may do: {_done}")
        if there - {"given", "out", self.folder.name} or Path(MARKER).exists():
            raise Broken(f"something was written: {sorted(there)}")
        for path in sorted(self.out.rglob("*"), reverse=True):
            if not path.is_dir() and path.suffix != ".safetensors":
                raise Broken(f"{path} was written")
            path.rmdir() if path.is_dir() else path.unlink()


def watch(folder: Path) -> None:
    """From now on this process may write below ``folder`` alone, start no program and open no connection."""
    inside = os.path.realpath(folder)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in (
            "os.system",
            "subprocess.Popen",
            "os.exec",
            "os.posix_spawn",
            "os.spawn",
            "os.fork",
            "socket.connect",
            "socket.getaddrinfo",
        ):
            _done.append(f"{event} {arguments[:2]}")
            raise Broken(_done[-1])
        writing = event in (
            "os.mkdir",
            "os.remove",
            "os.rmdir",
            "os.rename",
            "os.symlink",
            "os.link",
            "os.truncate",
            "os.chmod",
        )
        if event == "open":
            flags = arguments[2] if isinstance(arguments[2], int) else 0
            writing = bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))
        if writing and isinstance(arguments[0], (str, bytes, os.PathLike)):
            given = os.fsdecode(arguments[0])
            path = given if given == "/proc/self/clear_refs" else os.path.realpath(given)
            if not path.startswith((inside + os.sep, "/dev/", "/proc/self/clear_refs")):
                _done.append(f"{event} {path}")
                raise Broken(_done[-1])

    sys.addaudithook(hook)


def _given_names(random: Random, pieces: tuple[str, ...], out: Path) -> None:
    """Names as a file gives them: taken as they are or refused, and what is said of them is one line."""
    names = tuple("".join(random.choice(pieces) for _ in range(random.randrange(1, 3))) for _ in range(2))
    try:
        tokens = TokenSet(("a", "b"), {"clip_l": torch.ones(2, 1, 4)}, names)
    except MCTIError as error:
        if escaped(str(error)) != str(error) or len(str(error)) > 1000:
            raise Broken(f"said of {names}: {str(error)!r}") from error
    else:
        for name in tokens.names:
            _plain_name(name)
        export_embeddings(tokens, out / "named")
    shown = escaped("".join(random.choice(pieces) for _ in range(9)))
    if shown.splitlines() not in ([shown], []) or any(
        unicodedata.category(c) in ("Cc", "Cs") or c in "\u202e\u2066" for c in shown
    ):
        raise Broken(f"shown: {shown!r}")


def _outcome(ask: Callable[[], object]) -> str:
    try:
        ask()
    except MCTIError as error:
        str(error).encode("utf-8", "backslashreplace")
        if len(str(error)) > 20_000:
            raise Broken(f"a message of {len(str(error))} characters") from error
        return type(error).__name__
    except SystemExit as error:
        if error.code != 2:
            raise Broken(f"exit code {error.code}") from error
        return "exit 2"
    return "read"


def _run(command: Callable[[], int]) -> None:
    shown, told = (io.TextIOWrapper(io.BytesIO(), "utf-8", errors) for errors in ("strict", "backslashreplace"))
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(told), contextlib.suppress(SystemExit):
        if (code := command()) not in (0, 1):
            raise Broken(f"exit code {code}")


def _training(random: Random, path: Path) -> None:
    stored = load_checkpoint(path)
    identity = stored.identity if random.random() < 0.3 else {"settings": "lr 0.2"}
    describe_differences(stored.identity, identity)
    if stored.step < 0:
        raise Broken("no training")


def _value(random: Random) -> Any:
    choices = (
        random.choice(NUMBERS),
        -random.random(),
        random.random(),
        float("nan"),
        float("inf"),
        1e308,
        10**400,
        10**5000,
        1e-320,
        1 + 2j,
        0.5,
    )
    return random.choice(
        (
            *choices,
            1,
            2,
            8,
            10,
            None,
            True,
            "eot",
            "cosine",
            random.choice(TEXTS),
            any_json(random),
            ("a {}",),
            ["{}"],
            (),
            b"x",
        )
    )


def _config(random: Random) -> None:
    names = list(TrainConfig.__dataclass_fields__)
    config = TrainConfig(**{random.choice(names): _value(random) for _ in range(random.choice((1, 1, 2, 5)))})
    json.dumps(config.describe())
    torch.Generator().manual_seed(config.seed)
    for template in config.templates:
        template.replace("{}", "x")
    if not all(type(getattr(config, name)) in (bool, int, float, str, tuple, type(None)) for name in names):
        raise Broken(f"taken: {config}")
    for name in (
        "steps",
        "batch_size",
        "micro_batch_size",
        "lr_warmup_steps",
        "classification_only_steps",
        "max_classes_per_step",
        "eval_steps",
        "patience",
    ):
        range(getattr(config, name))


def _argument(random: Random) -> str:
    text = random.choice(
        (
            *TEXTS,
            *map(str, NUMBERS),
            "nan",
            "inf",
            "-1",
            "0.5",
            "1e-3",
            "--",
            "-x",
            "٣",
            "²",
            "1_0",
            " 1",
            "0x10",
            "\udcff",
            "eot",
        )
    )
    return text.replace("\0", "0").replace("\ud800", "\udc80")  # what no shell gives a program


def _arguments(random: Random) -> None:
    options = [
        "--output-dir",
        "--model",
        "--clip",
        "--config",
        "--model-config",
        "--device",
        "--dtype",
        "--shots",
        "--seed",
        "--seeds",
        "--first-seed",
        "--top",
        "--threshold",
        "--json",
        "--batch-size",
        "--tokens",
    ]
    options += [
        "--steps",
        "--lr",
        "--gamma",
        "--gamma-end",
        "--gradient-ratio",
        "--classification-only-steps",
        "--keep-norm",
        "--initializer-token",
        "--hflip",
        "--direction",
        "--pooling",
        "--templates",
        "--template",
        "--num-vectors",
    ]
    options += [
        "--resume",
        "--restart",
        "--save-every",
        "--method",
        "--reject-unknown",
        "--prompt",
        "--num-images",
        "--num-inference-steps",
        "--guidance-scale",
        "--format",
        "--layout",
        "--select",
        "--labels",
        "--rename",
        "--output",
        "--output-json",
    ]
    command = random.choice(
        ("train", "add", "classify", "evaluate", "generate", "convert", "demo", "", "x", _argument(random))
    )
    line = [command, *(_argument(random) for _ in range(random.randrange(2)))]
    if random.random() < 0.7:
        line = [
            random.choice(("train", "evaluate")),
            "no-folder",
            "--output-dir" if random.random() < 0.6 else "--cache",
            "no-out",
        ]
        options = [
            *[o for o in options if o not in ("--resume", "--restart")][15:27],
            "--seed",
            "--steps",
            "--batch-size",
        ]
    for _ in range(random.randrange(1, 5)):
        line += [random.choice(options), _argument(random)][: random.choice((1, 2, 2, 2, 2))]
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        try:
            arguments = _parser().parse_args(line)
        except SystemExit as error:
            if error.code == 0:  # --help
                return
            raise
        if hasattr(arguments, "steps") and hasattr(arguments, "lr"):
            config = config_of(arguments)
            torch.Generator().manual_seed(config.seed)
        if not 0 <= (getattr(arguments, "threshold", None) or 0) <= 1:
            raise Broken(f"threshold {arguments.threshold}")
        for name in ("seed", "first_seed"):
            if isinstance(getattr(arguments, name, None), int):
                torch.Generator().manual_seed(getattr(arguments, name))


def _plain_name(name: str) -> None:
    devices = {"CON", "PRN", "AUX", "NUL", *(p + n for p in ("COM", "LPT") for n in "123456789¹²³")}
    wrong = not name or name != name.strip(" .") or len(name.encode()) > 120 or name.split(".")[0].upper() in devices
    if wrong or any(unicodedata.category(c)[0] in "CZ" or c in '/\\:*?"<>|%~' for c in name):
        raise Broken(f"{name!r} is no file's name everywhere")


warnings.simplefilter("ignore")  # Pillow and PyTorch warn of what is odd in a file
