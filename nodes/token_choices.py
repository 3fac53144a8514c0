"""Choices of Load Token Embeddings: token sets, single embeddings, and folders of embeddings."""

from __future__ import annotations

import logging
from bisect import bisect
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import folder_paths

from ..mcti_core.errors import TokenError
from ..mcti_core.escaping import escaped
from ..mcti_core.tokens.embedding_cards import CARD_SUFFIXES, has_card
from ..mcti_core.tokens.formats import SUFFIXES
from ..mcti_core.tokens.io import SUFFIX, import_embedding, in_set_order, is_token_set, load_tokens
from ..mcti_core.tokens.ops import merge
from ..mcti_core.tokens.token_set import TokenSet
from .folders import TOKEN_SETS

__all__ = ["FOLDER", "choices", "embedding_roots", "files_of", "read_choice"]

_EMBEDDING, FOLDER = "embedding: ", "embeddings in: "
"""Prefixes of choices in the list; token sets have no prefix."""


def choices() -> list[str]:
    embeddings = _embeddings()
    folders = sorted({Path(name).parent.as_posix() for name in embeddings} - {"."})
    sets = [name for name in folder_paths.get_filename_list(TOKEN_SETS) if name.endswith(SUFFIX)]
    return [*sets, *(FOLDER + folder for folder in folders), *(_EMBEDDING + name for name in embeddings)]


def embedding_roots() -> list[Path]:
    return [Path(path) for path in folder_paths.get_folder_paths("embeddings")]


def files_of(choice: str) -> list[Path]:
    """The files of a choice; ComfyUI's own lookup keeps them inside its folders.

    Raises:
        TokenError: there are none.
    """
    if choice.startswith(FOLDER):
        folder = choice.removeprefix(FOLDER)
        names = [name for name in _embeddings() if Path(name).parent.as_posix() == folder]
        paths_or_none = [folder_paths.get_full_path("embeddings", name) for name in names]
    elif choice.startswith(_EMBEDDING):
        paths_or_none = [folder_paths.get_full_path("embeddings", choice.removeprefix(_EMBEDDING))]
    else:
        paths_or_none = [folder_paths.get_full_path(TOKEN_SETS, choice)]
    paths = [Path(path) for path in paths_or_none if path is not None]
    if not paths:
        raise TokenError(f"there are no tokens {choice!r} any more; choose others, or save them again")
    return paths


def read_choice(choice: str) -> TokenSet:
    """The tokens of a choice. A file of a folder that cannot be read is logged and left out.

    Raises:
        TokenError: the file, or every file of a folder, cannot be read or belongs elsewhere; or the embeddings of a folder do not fit
            together. The message names the file.
    """
    paths = files_of(choice)
    if choice.startswith(_EMBEDDING):
        return _embedding(paths[0])[0]
    return _of_folder(paths) if choice.startswith(FOLDER) else _token_set(paths[0])


def _embeddings() -> list[str]:
    """Files that ComfyUI lists as embeddings, and images that contain one, which it does not list."""
    listed = [name for name in folder_paths.get_filename_list("embeddings") if name.lower().endswith(SUFFIXES)]
    stems = {str(Path(name).with_suffix("")) for name in listed}
    cards = []
    for root in embedding_roots():
        names, _ = folder_paths.recursive_search(str(root), excluded_dir_names=[".git"])
        for name in names:
            stem = str(Path(name).with_suffix("")).removesuffix(".preview")
            if name.lower().endswith(CARD_SUFFIXES) and stem not in stems:  # not a preview
                with suppress(OSError):
                    state = (root / name).stat()
                    if _known_card(root / name, state.st_mtime_ns, state.st_size):
                        cards.append(name)
    return listed + sorted(set(cards))


@lru_cache(maxsize=10_000)
def _known_card(path: Path, *_: int) -> bool:
    """``has_card``, remembered until the file changes, since the page requests the choices often."""
    return has_card(path)


def _embedding(path: Path) -> tuple[TokenSet, tuple[str, ...]]:
    if is_token_set(path):
        raise TokenError(f"{path} is a token set, not an embedding; move it to models/{TOKEN_SETS}")
    return import_embedding(path)


def _token_set(path: Path) -> TokenSet:
    try:
        return load_tokens(path)
    except TokenError as error:
        if is_token_set(path):
            raise
        try:
            import_embedding(path)
        except TokenError:
            raise error from None
        raise TokenError(f"{path} is an embedding, not a token set; move it to models/embeddings") from None


def _of_folder(paths: list[Path]) -> TokenSet:
    sets, problems = dict[Path, tuple[TokenSet, tuple[str, ...]]](), list[str]()
    for path in paths:
        try:
            sets[path] = _embedding(path)
        except TokenError as error:
            problems.append(str(error))
    if not sets:
        raise TokenError(problems[0])
    for problem in problems:
        logging.warning("MC-TI: not loaded: %s", escaped(problem))
    loaded = list(sets.values())
    try:
        return merge(*(loaded[index][0] for index in in_set_order(loaded)))
    except TokenError as error:
        raise TokenError(f"{_misfit(sets)}: {error}") from error


def _misfit(read: Mapping[Path, tuple[TokenSet, tuple[str, ...]]]) -> Path:
    """The first file that does not fit those before it."""
    sets = [tokens for tokens, _ in read.values()]

    def clash(count: int) -> bool:
        try:
            merge(*sets[: count + 1])
        except TokenError:
            return True
        return False

    return list(read)[bisect(range(len(sets) - 1), 0, key=clash)]  # False up to there
