"""Which folders a graph may name: the host's own, and those that the person who runs the server opened on purpose."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import folder_paths

from ..mcti_core.errors import ExamplesError
from ..mcti_core.examples import find_images
from ..mcti_core.tokens import safe_parts

__all__ = ["TOKEN_SETS", "class_folders", "example_folder", "token_set_path", "token_set_root", "use_token_set_folder"]

TOKEN_SETS = "mcti_tokens"
"""The host's model folder for token sets."""
_OPENED = "mcti_folders.txt"
"""In the host's user folder: one folder a line that graphs may read examples from."""


def use_token_set_folder() -> None:
    """Tell the host of ``models/mcti_tokens``."""
    folder_paths.add_model_folder_path(TOKEN_SETS, str(Path(folder_paths.models_dir) / TOKEN_SETS))


def class_folders() -> list[str]:
    """What can be chosen as a folder of class folders: in the host's input folder by name, opened ones by path."""
    inputs = Path(folder_paths.get_input_directory())
    found = [path.relative_to(inputs).as_posix() for path in _holding_classes(inputs, depth=2)]
    return sorted(found) + [str(path) for root in _opened() for path in _holding_classes(root, depth=1, itself=True)]


def example_folder(name: str) -> Path:
    """The folder that a graph names.

    Raises:
        ExamplesError: it is not there, or lies outside the folders that a graph may read.
    """
    inputs = Path(folder_paths.get_input_directory())
    path = Path(os.path.realpath(inputs / name))
    refuse_outside([path], name)
    if not name.strip() or not path.is_dir():
        raise ExamplesError(
            f"there is no folder {name!r} in {inputs}; put a folder there that holds a folder of images a class"
        )
    return path


def refuse_outside(paths: Iterable[Path], name: str) -> None:
    """Raises ExamplesError if any path, links followed, lies outside the folders that a graph may read.

    Args:
        name: of the folder that led there, for the message.
    """
    inputs = Path(folder_paths.get_input_directory())
    own = [inputs, *map(Path, (folder_paths.get_output_directory(), folder_paths.get_temp_directory()))]
    roots = [Path(os.path.realpath(root)) for root in (*own, *_opened())]
    for path in {Path(os.path.realpath(path)) for path in paths}:
        if not any(path.is_relative_to(root) for root in roots):
            raise ExamplesError(
                f"the folder {name!r} is outside ComfyUI's input folder, or a link in it leads there; copy it into {inputs}, or "
                f"write its path as a line into {_settings_file()}"
            )


def token_set_path(name: str, suffix: str) -> Path:
    """Where a token set of this name is kept; the name may hold folders, but not lead out of the host's.

    Raises:
        TokenError: a name without letters or digits.
    """
    *folders, last = safe_parts(name)
    return token_set_root().joinpath(*folders, last + suffix)


def token_set_root() -> Path:
    """The host's folder that token sets are written into."""
    return Path(folder_paths.get_folder_paths(TOKEN_SETS)[0])


def _holding_classes(root: Path, depth: int, itself: bool = False) -> list[Path]:
    """Folders down to ``depth`` below the root that hold at least two folders of images."""
    if not root.is_dir():
        return []
    inner = [path for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")]
    here = [root] if itself and sum(bool(find_images(path)) for path in inner) > 1 else []
    return here + [found for path in inner if depth for found in _holding_classes(path, depth - 1, itself=True)]


def _opened() -> list[Path]:
    file = _settings_file()
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return [Path(line.strip()) for line in lines if line.strip() and not line.startswith("#")]


def _settings_file() -> Path:
    return Path(folder_paths.get_user_directory()) / _OPENED
