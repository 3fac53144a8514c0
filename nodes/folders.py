"""The folders that a graph may name: ComfyUI's own, and those that the server's owner allows."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from pathlib import Path

import folder_paths

from ..mcti_core.data.example_files import holds_images, is_system_folder
from ..mcti_core.errors import ExamplesError, MCTIError
from ..mcti_core.escaping import escaped
from ..mcti_core.files.regular import read_limited
from ..mcti_core.files.written_paths import decoded_lines, folder_of
from ..mcti_core.tokens.names import safe_parts
from ..mcti_core.tokens.references import without_suffix
from .checking import checked_text

__all__ = [
    "TOKEN_SETS",
    "class_folders",
    "example_folder",
    "refuse_outside",
    "register_token_folder",
    "token_set_path",
    "token_set_root",
]

TOKEN_SETS = "mcti_tokens"
"""ComfyUI's model folder for token sets."""
_FOLDER_LIST = "mcti_folders.txt"
"""Settings file in ComfyUI's user folder: one folder per line that graphs may read examples from."""
_MAX_BYTES = 2**20
_MAX_FOLDERS = 256
_MAX_DEPTH = 6
"""Depth to which the readers look for images."""
_logged: set[str] = set()
"""Messages about the settings file that were already logged; the file is read whenever the page requests the nodes."""


def register_token_folder() -> None:
    """Register ``models/mcti_tokens`` with ComfyUI."""
    folder_paths.add_model_folder_path(TOKEN_SETS, str(Path(folder_paths.models_dir) / TOKEN_SETS))


def class_folders() -> list[str]:
    """Choices for a folder of class folders: by name in ComfyUI's input folder, by path for folders in the settings file."""
    inputs = Path(folder_paths.get_input_directory())
    names = sorted(path.relative_to(inputs).as_posix() for path in _holding_classes(inputs, depth=2))
    names += [str(path) for root in _read_settings()[0] for path in _holding_classes(root, depth=1, itself=True)]
    return [name for name in names if _can_come_back(name)]


def _can_come_back(name: str) -> bool:
    """Whether the page can show a choice and return it unchanged."""
    try:
        return bool(checked_text("folder", name))
    except MCTIError:
        return False


def example_folder(name: str) -> Path:
    """The folder that a graph names.

    Raises:
        ExamplesError: it does not exist, or is outside the folders that a graph may read.
    """
    inputs = Path(folder_paths.get_input_directory())
    missing = ExamplesError(
        f"there is no folder {name!r:.200} in {inputs}; put a folder there that contains one folder of images per class"
    )
    try:
        if not _inside(Path(os.path.normpath(inputs / name)), [*_roots(), *map(_followed, _roots())]):
            raise _outside(name)  # before looking it up, since Windows logs in to the server in a name
        path = _followed(inputs / name)
        refuse_outside([path], name)
        if not name.strip() or not path.is_dir():
            raise missing
        _refuse_links_outside(path, name, _MAX_DEPTH, set())
    except (OSError, ValueError):  # an invalid name
        raise missing from None
    return path


def refuse_outside(paths: Iterable[Path], name: str) -> None:
    """Raise an ExamplesError if any path, after following links, is outside the folders that a graph may read.

    Args:
        name: of the folder that led to it, for the message.
    """
    roots = [_followed(root) for root in _roots()]
    for path in set(map(_followed, paths)):
        if not _inside(path, roots):
            raise _outside(name)


def _refuse_links_outside(folder: Path, name: str, depth: int, seen: set[Path]) -> None:
    """Refuse links in a folder that lead outside, before its reader follows them: even file names and first bytes are content."""
    seen.add(folder)
    try:
        with os.scandir(folder) as entries:
            found = [entry for entry in entries if not entry.name.startswith(".")]  # hidden files are ignored
        # folders too, since Windows junctions are not links
        links = [Path(entry.path) for entry in found if entry.is_symlink() or entry.is_dir()]
        if links:
            refuse_outside(links, name)
        inner = {path for path in map(_followed, links) if path.is_dir()} if depth else set()
    except OSError:  # the reader reports it
        return
    for path in sorted(inner - seen):
        _refuse_links_outside(path, name, depth - 1, seen)


def _roots() -> list[Path]:
    """The folders that a graph may read, with links not followed."""
    comfyui_folders = (
        folder_paths.get_input_directory(),
        folder_paths.get_output_directory(),
        folder_paths.get_temp_directory(),
    )
    return [*(Path(os.path.normpath(path)) for path in comfyui_folders), *_read_settings()[0]]


def _followed(path: Path) -> Path:
    return Path(os.path.realpath(path))


def _inside(path: Path, roots: Iterable[Path]) -> bool:
    return any(path.is_relative_to(root) for root in roots)


def _outside(name: str) -> ExamplesError:
    useless = _read_settings()[1]
    written = f", where line {useless[0]} is not the path of a folder" if useless else ""
    return ExamplesError(
        f"the folder {name!r:.200} is outside ComfyUI's input folder, or a link in it leads there; copy it into "
        f"{folder_paths.get_input_directory()}, or write its path as a line into {_settings_file()}{written}"
    )


def token_set_path(name: str, suffix: str) -> Path:
    """Path of a token set with this name, with or without a file's suffix; it may contain folders, but not leave ComfyUI's folder.

    Raises:
        TokenError: the name has no letters or digits.
    """
    *folders, last = safe_parts(without_suffix(name.strip()))
    return token_set_root().joinpath(*folders, last + suffix)


def token_set_root() -> Path:
    """ComfyUI's folder that token sets are written to."""
    return Path(folder_paths.get_folder_paths(TOKEN_SETS)[0])


def _holding_classes(root: Path, depth: int, itself: bool = False) -> list[Path]:
    """Folders down to ``depth`` below the root with at least two folders of images; unreadable folders are skipped."""
    try:
        inner = [path for path in root.iterdir() if path.is_dir() and not is_system_folder(path.name)]
        here = [root] if itself and sum(map(holds_images, inner)) > 1 else []
    except (OSError, ValueError):
        return []
    return here + [found for path in inner if depth for found in _holding_classes(path, depth - 1, itself=True)]


def _read_settings() -> tuple[list[Path], list[int]]:
    """The valid folders in the settings file, and the numbers of its invalid lines, which are logged once each."""
    file = _settings_file()
    try:
        if not file.is_file():
            return [], []
        lines = decoded_lines(read_limited(file, _MAX_BYTES))
    except OSError as error:
        _log_once(f"{file} cannot be read ({error}); its folders cannot be used")
        return [], []
    opened, useless = list[Path](), list[int]()
    for number, line in enumerate(map(str.strip, lines), 1):
        if not line or line.startswith("#"):
            continue
        if path := folder_of(line):
            opened.append(path)
            if len(opened) == _MAX_FOLDERS:
                break
        else:
            useless.append(number)
            _log_once(
                f"line {number} of {file} is not the path of a folder: {line[:200]!r}; write a full path, such as {Path.home()}"
            )
    return opened, useless


def _log_once(sentence: str) -> None:
    if sentence not in _logged:
        _logged.add(sentence)
        logging.warning("MC-TI: %s", escaped(sentence))


def _settings_file() -> Path:
    return Path(folder_paths.get_user_directory()) / _FOLDER_LIST
