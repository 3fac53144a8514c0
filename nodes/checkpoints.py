"""Unfinished trainings, stored in ComfyUI's user folder until the same graph is queued again, also after a restart."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import folder_paths

from ..mcti_core.errors import FileError, ResumeError
from ..mcti_core.escaping import escaped
from ..mcti_core.files.writing import delete_own, refuse_foreign, set_aside
from ..mcti_core.training.checkpoint import is_training
from ..mcti_core.training.errors import TrainingError
from .folders import token_set_path, token_set_root

if TYPE_CHECKING:
    from ..mcti_core.tokens.token_set import TokenSet
    from ..mcti_core.training.config import TrainConfig
    from ..mcti_core.training.state import TrainState

__all__ = ["discard", "finished_tokens_kept", "keep_tokens", "tokens_so_far", "unfinished_path", "unfinished_state"]

_FOLDER = "mcti_unfinished"
_MAX_TRIES = 100
_ID_LENGTH = 8
"""Characters of a training's hash in the names of its tokens."""
_MAX_STORED = 8
"""Maximum number of stored trainings; the oldest is deleted."""


def unfinished_path(identity: Mapping[str, str]) -> Path:
    """Path for a training with this ``run_identity``. Deletes the oldest stored trainings beyond the limit."""
    user = Path(folder_paths.get_user_directory())
    folder = user / _FOLDER
    name = hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest()[:32]
    path = folder / f"{name}.safetensors"
    refuse_foreign(path, lambda file: True, root=user)  # checks the path; the content is checked next
    if path.is_file() and not is_training(path):
        discard(path, "it is not a training saved by MC-TI")
    others = [file for file in folder.glob("*.safetensors") if file != path and is_training(file)]
    for file in sorted(others, key=lambda file: file.stat().st_mtime, reverse=True)[_MAX_STORED - 1 :]:
        delete_own(file, is_training, root=user)
    return path


def discard(path: Path, why: str) -> None:
    """Set an unusable file aside, to make room for the next training."""
    if path.is_file():
        other = set_aside(path)
        logging.warning("MC-TI: %s", escaped(f"{why}; {path.name} is now {other.name}, and the training starts over"))


def unfinished_state(path: Path, identity: Mapping[str, str]) -> TrainState | None:
    """The saved state of the training with this identity, if there is one."""
    from ..mcti_core.training.checkpoint import load_checkpoint

    if not path.is_file():
        return None
    try:
        state = load_checkpoint(path)
    except ResumeError as error:
        discard(path, str(error))
        return None
    return state if state.identity == identity else None


def tokens_so_far(info: Any) -> TokenSet:
    """Tokens of a ``StepInfo``, or the last finite tokens, since a cancel can come before NaN is noticed."""
    try:
        return info.tokens()
    except TrainingError as error:
        return error.tokens


def keep_tokens(tokens: TokenSet, training: Path, steps: int, config: TrainConfig) -> None:
    """Save the tokens of an unfinished training, given its ``unfinished_path``, so that they can be used without resuming it."""
    logging.info(
        "MC-TI: interrupted after %d of %d steps. The tokens so far are in %s; queue the same graph again to continue.",
        steps, config.classification_only_steps + config.steps, _kept(tokens, training),
    )  # fmt: skip


@contextmanager
def finished_tokens_kept(tokens: TokenSet, training: Path) -> Iterator[None]:
    """Save the tokens of a finished training if the work that follows it is interrupted."""
    try:
        yield
    except BaseException:
        logging.info(
            "MC-TI: interrupted after the last step. The tokens are in %s; queue the same graph again to get the rest without training.",
            _kept(tokens, training),
        )
        raise


def _kept(tokens: TokenSet, training: Path) -> Path:
    """Save tokens under a free name of their training's own, so that nothing is replaced."""
    from ..mcti_core.tokens.io import SUFFIX, refuse_foreign_tokens, save_tokens

    name = f"unfinished-{tokens.names[0]}-and-{len(tokens) - 1}-more-{training.stem[:_ID_LENGTH]}"
    for number in range(1, _MAX_TRIES + 1):  # the next one if another program's file has the name
        path = token_set_path(name if number == 1 else f"{number}-{name}", SUFFIX)
        try:
            refuse_foreign_tokens([path], sets=True, root=token_set_root())
            break
        except FileError:
            if number == _MAX_TRIES:
                raise
    return save_tokens(tokens, path)
