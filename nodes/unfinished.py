"""Trainings that were broken off: in the host's user folder, until the same graph is queued again, also after a restart."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import folder_paths

from ..mcti_core.errors import ResumeError
from ..mcti_core.escaping import escaped
from ..mcti_core.own_files import delete_own, refuse_foreign, set_aside
from ..mcti_core.progress_store import is_training

if TYPE_CHECKING:
    from ..mcti_core.train_state import TrainState

__all__ = ["give_up", "unfinished_path", "unfinished_state"]

_FOLDER = "mcti_unfinished"
_MOST = 8
"""Trainings that are kept; beyond it, the oldest goes."""


def unfinished_path(identity: Mapping[str, str]) -> Path:
    """Where a training of this ``run_identity`` is kept. There is room for it afterwards."""
    user = Path(folder_paths.get_user_directory())
    folder = user / _FOLDER
    name = hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest()[:32]
    path = folder / f"{name}.safetensors"
    if path.is_file() and not path.is_symlink() and not is_training(path):
        _set_aside(path, "it is no training that was kept here")
    refuse_foreign(path, is_training, root=user)
    others = [file for file in folder.glob("*.safetensors") if file != path and is_training(file)]
    for file in sorted(others, key=lambda file: file.stat().st_mtime, reverse=True)[_MOST - 1 :]:
        delete_own(file, is_training, root=user)
    return path


def give_up(path: Path, error: ResumeError) -> None:
    """Put a training that cannot be resumed out of the way of the next one."""
    if path.is_file():
        _set_aside(path, str(error))


def unfinished_state(path: Path, identity: Mapping[str, str]) -> TrainState | None:
    """Where the training of this identity stood, if it was broken off."""
    from ..mcti_core.progress_store import load_training

    if not path.is_file():
        return None
    try:
        state = load_training(path).state
    except ResumeError as error:
        _set_aside(path, str(error))
        return None
    return state if state.begun == identity else None


def _set_aside(path: Path, why: str) -> None:
    other = set_aside(path)
    logging.warning("MC-TI: %s", escaped(f"{why}; {path.name} is now {other.name}, and the training starts over"))
