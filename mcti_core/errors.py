"""The project's exceptions. Each message says what is wrong, what is allowed, and what to do."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "ConfigError", "ExamplesError", "FileError", "HostError", "MCTIError", "ResumeError", "TokenError", "counted",
    "listed",
]  # fmt: skip

_MAX_NAME, _MAX_MESSAGE = 60, 4000
"""Maximum lengths in characters of a listed name and of a message."""


class MCTIError(Exception):
    """Base of every error that this project raises on purpose. Long messages, as from quoted file content, are cut."""

    def __str__(self) -> str:
        message, half = super().__str__(), _MAX_MESSAGE // 2
        return message if len(message) <= _MAX_MESSAGE else f"{message[:half]} ... {message[-half:]}"


class ExamplesError(MCTIError):
    """Example images or class folders are not usable."""


class TokenError(MCTIError):
    """Tokens, token files or prompts are not usable."""


class ConfigError(MCTIError):
    """A setting is out of range or does not fit the others."""


class FileError(MCTIError):
    """A file cannot be written or removed: another program wrote it, or a link leads elsewhere."""


class HostError(MCTIError):
    """A model cannot be loaded, or lacks a required part."""


class ResumeError(MCTIError):
    """An interrupted training cannot be saved, read or resumed."""


def listed(items: Sequence[object], most: int = 12) -> str:
    """Names for a message: the first ones, shortened if they are long, and the number of further ones.

    >>> listed(["cat", "dog", "bird"], most=2)
    'cat, dog and 1 more'
    """
    texts = map(str, items[:most])
    shown = ", ".join(text if len(text) <= _MAX_NAME else f"{text[:_MAX_NAME]}..." for text in texts)
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"


def counted(count: int, noun: str) -> str:
    """A number and its noun.

    >>> counted(1, "image"), counted(2, "image")
    ('1 image', '2 images')
    """
    return f"{count} {noun}{'s' * (count != 1)}"
