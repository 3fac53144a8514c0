"""Properties of every input: a result or an ``MCTIError``, and no side effects."""

from __future__ import annotations

import contextlib
import io
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch

from mcti_core.cli.parser import main
from mcti_core.data.dataset import FewShotDataset
from mcti_core.errors import MCTIError
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
from mcti_core.tokens.ops import merge, rename, select
from mcti_core.tokens.token_set import TokenSet
from mcti_core.training.checkpoint import load_checkpoint
from mcti_core.training.resume import describe_differences

from . import options, outputs, prompts
from .folders import check_folder, make_folder, make_irregular
from .image_mutations import metadata_changed, png_changed, scans_added
from .mutations import (
    TEXTS,
    archive_changed,
    bytes_changed,
    header_changed,
    hostile_pickle,
)
from .names import any_names
from .seeds import MARKER, exif_blocks, image_files, safetensors_files, token_set, torch_files
from .settings import Broken, any_argument, any_arguments, any_config
from .watching import misdeeds

__all__ = ["KINDS", "Inputs"]

KINDS = ("token files", "images", "settings", "prompts", "folders", "options", "outputs")


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
        name, law = (("configuration", any_config), ("arguments", any_arguments), ("names", any_names))[kind]
        self._case(law, random)
        self.begin()
        return [f"{name} {_outcome(lambda: law(random, self.out) if law is any_names else law(random))}"]

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
        kind, word = random.choice(("set", "embeddings")), any_argument(random)
        operation = random.choice(([], ["--labels", word], ["--select", word], ["--rename", f"x={word}"]))
        _run(lambda: main(["convert", str(path), "--output", str(self.out / "new"), "--format", kind, *operation]))

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
        if misdeeds:
            raise Broken(f"it did what no input may do: {misdeeds}")
        if there - {"given", "out", self.folder.name} or Path(MARKER).exists():
            raise Broken(f"something was written: {sorted(there)}")
        for path in sorted(self.out.rglob("*"), reverse=True):
            if not path.is_dir() and path.suffix != ".safetensors":
                raise Broken(f"{path} was written")
            path.rmdir() if path.is_dir() else path.unlink()


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


warnings.simplefilter("ignore")  # Pillow and PyTorch warn of what is odd in a file
