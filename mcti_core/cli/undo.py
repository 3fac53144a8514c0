"""``mcti undo``: revert the sorting of images."""

from __future__ import annotations

import argparse

from ..errors import counted
from ..escaping import escaped
from ..files.output_lock import lock_output
from ..files.transfer import undo
from .console import say

__all__ = ["run_undo"]


def run_undo(arguments: argparse.Namespace) -> int:
    with lock_output(arguments.file.parent, folder=True):
        done, problems = undo(arguments.file)
    for problem in problems:
        say(problem)
    print(escaped(f"{counted(done, 'file')} put back or removed; {len(problems)} stay"))
    return 1 if problems else 0
