"""Captions in text files named like the images, the convention of kohya's scripts and OneTrainer."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from ..errors import ExamplesError, TokenError
from ..files.limits import check_counts
from ..files.regular import open_regular
from ..files.written_paths import decoded_lines
from ..prompts.splicing import check_templates

__all__ = ["existing", "find_captions", "read_caption"]

_SUFFIXES = (".txt", ".caption")
_MAX_BYTES = 2**16


def find_captions(images: Iterable[Path]) -> dict[Path, Path]:
    """Image -> its .txt or .caption file; images without one are left out."""
    return existing({image: [image.with_suffix(suffix) for suffix in _SUFFIXES] for image in images})


def existing(candidates: Mapping[Path, Iterable[Path]]) -> dict[Path, Path]:
    """Image -> the first of its candidates that is a file; images without one are left out."""
    return {image: path for image, paths in candidates.items() if (path := next(filter(os.path.isfile, paths), None))}


def read_caption(path: Path) -> str:
    """Read the first nonempty line as a template, with ``{}`` for the token; "{}, " is prepended to a line without it.

    Returns:
        The template; "" for an empty file.

    Raises:
        ExamplesError: the file cannot be read, or the line is too long or not a template (``prompts.splicing.check_templates``).
    """
    try:
        with open_regular(path) as file:
            content = file.read(_MAX_BYTES + 1) or b""
        if len(content) > _MAX_BYTES:
            raise ValueError(f"it is larger than {_MAX_BYTES // 1024} KiB")
    except (OSError, ValueError) as error:
        raise ExamplesError(f"the caption {path} cannot be read ({error}); replace or remove it") from error
    caption = next(filter(None, map(str.strip, decoded_lines(content))), "")
    if not caption:
        return ""
    caption = caption if "{}" in caption else f"{{}}, {caption}"
    try:
        check_counts((), [caption])
        check_templates([caption])
    except TokenError as error:
        raise ExamplesError(f"the caption {path} cannot be used: {error}") from error
    return caption
