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

if TYPE_CHECKING:
    from ..mcti_core.train_state import TrainState

__all__ = ["unfinished_path", "unfinished_state"]

_FOLDER = "mcti_unfinished"
_MOST = 8
"""Trainings that are kept; beyond it, the oldest goes."""


def unfinished_path(identity: Mapping[str, str]) -> Path:
    """Where a training of this ``run_identity`` is kept. There is room for it afterwards."""
    folder = Path(folder_paths.get_user_directory()) / _FOLDER
    name = hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest()[:32]
    path = folder / f"{name}.safetensors"
    others = [file for file in folder.glob("*.safetensors") if file != path]
    for file in sorted(others, key=lambda file: file.stat().st_mtime, reverse=True)[_MOST - 1 :]:
        file.unlink(missing_ok=True)
    return path


def unfinished_state(path: Path, identity: Mapping[str, str]) -> TrainState | None:
    """Where the training of this identity stood, if it was broken off."""
    from ..mcti_core.progress_store import load_training

    if not path.is_file():
        return None
    try:
        state = load_training(path).state
    except ResumeError as error:
        logging.warning("MC-TI: %s; starting over", error)
        return None
    return state if state.begun == identity else None
