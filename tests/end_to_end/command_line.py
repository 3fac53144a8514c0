"""Commands as a user types them."""

from __future__ import annotations

from mcti_core.cli.parser import main

__all__ = ["messages", "run"]


def run(line: str, *words: object) -> int:
    """Run a command line, split at its spaces, with further words behind it. Returns the exit code."""
    return main([*line.split(), *map(str, words)])


def messages(capsys) -> list[str]:
    """What was said since the last call, without progress bars: the lines that begin with ``mcti``."""
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("mcti: ")]
