"""Check every value that reaches a node against the node's own schema, since ComfyUI checks widgets but not links."""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import Any, ClassVar

import comfy.model_management
import torch
from comfy_api.latest import io
from torch import Tensor

from ..mcti_core.errors import ConfigError
from ..mcti_core.files.limits import MAX_MARKS, has_many_marks
from ..mcti_core.images.tensors import in_range
from ..mcti_core.tokens.token_set import TokenSet
from .context import node_context
from .types import Examples

__all__ = ["MAX_TEXT", "Node", "checked_text"]

MAX_TEXT = 100_000
"""Maximum length of a text with several lines; a twentieth for a text with a single line."""
_OVERSHOOT = 0.5
"""Tolerance for image values outside [0, 1]: bicubic resizing gives such values, which are clamped."""
_MAX_FLOAT = sys.float_info.max
_NUMBERS = {"INT": "a whole number", "FLOAT": "a number"}
_OWN_TYPES = {"MCTI_TOKENS": TokenSet, "MCTI_EXAMPLES": Examples}
_LIST_INPUTS = {"wanted"}
"""Texts of one line that a link may give as several lines: names, one per line."""
_PLAIN_TYPES = (str, int, float, list, tuple, dict, Tensor)
"""Types of plain values, which no model has."""


class Node(io.ComfyNode):
    """A node whose ``execute`` runs in ``node_context``, gets only values that its schema allows, and does not start after a cancel."""

    LOOKED_UP: ClassVar[frozenset[str]] = frozenset()
    """Choices that ``execute`` checks itself, since they depend on the existing files."""
    LISTS: ClassVar[frozenset[str]] = frozenset()
    """Inputs of a node with ``is_input_list`` that ``execute`` gets as lists; of each other input, it gets the single value."""

    def __init_subclass__(cls, **more: Any):
        super().__init_subclass__(**more)
        execute = getattr(vars(cls).get("execute"), "__func__", None)
        if execute is not None and not hasattr(execute, "__wrapped__"):  # ComfyUI makes locked copies of a class
            cls.execute = classmethod(_checking(cls, execute))


def _checking(node: type[Node], execute: Callable[..., Any]) -> Callable[..., Any]:
    names = list(inspect.signature(execute).parameters)[1:]

    @functools.cache
    def schema() -> Any:
        return node.define_schema()

    @functools.wraps(execute)
    def checked(cls: type[Node], *arguments: Any, **named: Any) -> Any:
        with node_context():
            values = {**dict(zip(names, arguments, strict=False)), **named}
            check = _checked_list if schema().is_input_list else _checked
            for each in schema().inputs:
                if each.id in values or not each.optional:
                    values[each.id] = check(each, values.get(each.id), node)
            # without a value, the default of execute applies
            values = {name: value for name, value in values.items() if value is not None}
            comfy.model_management.throw_exception_if_processing_interrupted()
            return execute(cls, **values)

    return checked


def _checked_list(each: Any, values: Any, node: type[Node]) -> Any:
    if values is None:
        return _checked(each, None, node)
    if not isinstance(values, list) or not values:
        raise ConfigError(f"{each.id} is empty; check what is connected to it")
    checked = [_checked(each, value, node) for value in values]
    if each.id in node.LISTS:
        return checked
    if len(checked) > 1:
        raise ConfigError(
            f"{each.id} is a list of {len(checked)}, and this node takes one; connect a node that gives one"
        )
    return checked[0]


def _checked(each: Any, value: Any, node: type[Node]) -> Any:
    if value is None:
        if each.optional:
            return None
        raise ConfigError(f"{each.id} is empty; check what is connected to it")
    kind = str(each.get_io_type())
    if kind in _NUMBERS:
        return _number(each, kind, value)
    if kind == "BOOLEAN":
        if not isinstance(value, Integral) or value not in (0, 1):
            raise ConfigError(f"{each.id} must be true or false, got {_shown(value)}")
        return bool(value)
    if kind == "COMBO":
        text = checked_text(each.id, value)
        if each.id not in node.LOOKED_UP and text not in each.options:
            raise ConfigError(f"{each.id} {_shown(text)} is not one of {', '.join(map(str, each.options))}")
        return text
    if kind == "STRING":
        labels = bool(each.force_input)  # of folders, which can have any name
        return checked_text(each.id, value, lines=bool(each.multiline) or each.id in _LIST_INPUTS, anything=labels)
    if kind == "IMAGE":
        return _image(each.id, value)
    _refuse_other_kind(each.id, kind, value)
    return value


def _number(each: Any, kind: str, value: Any) -> int | float:
    is_whole = isinstance(value, Integral) or (isinstance(value, float) and value.is_integer())
    if isinstance(value, bool) or not isinstance(value, Real) or (kind == "INT" and not is_whole):
        raise ConfigError(f"{each.id} must be {_NUMBERS[kind]}, got {_shown(value)}")
    if value != value:
        raise ConfigError(f"{each.id} must be a number, got nan; check the node that makes it")
    low, high = (-_MAX_FLOAT if each.min is None else each.min), (_MAX_FLOAT if each.max is None else each.max)
    if not low <= value <= high:
        raise ConfigError(f"{each.id} must be from {low} to {high}, got {_shown(value)}")
    return int(value) if kind == "INT" else float(value)


def checked_text(name: str, value: Any, *, lines: bool = False, anything: bool = False) -> str:
    """Check a text from a graph.

    Args:
        lines: whether it may have several lines.
        anything: skip the check of characters.

    Raises:
        ConfigError: not a text, too long, with very many marks on one letter, or with control characters or surrogate halves.
    """
    if not isinstance(value, str):
        raise ConfigError(f"{name} must be a text, got {_shown(value)}")
    limit = MAX_TEXT if lines else MAX_TEXT // 20
    if len(value) > limit:
        raise ConfigError(f"{name} has {len(value):,} characters; at most {limit:,} are allowed")
    if has_many_marks(value):
        raise ConfigError(f"{name} puts more than {MAX_MARKS} combining marks on one letter; shorten it")
    allowed = "\t\r\n" if lines else ""
    for c in () if anything else value:
        if not (c in allowed or c.isprintable() or c >= "\xa0") or "\ud800" <= c <= "\udfff":
            raise ConfigError(f"{name} contains the character {c!r}, which is not a letter; remove it")
    return value


def _image(name: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.ndim != 4 or value.shape[-1] not in (1, 3, 4) or not value.numel():
        shape = tuple(value.shape) if isinstance(value, Tensor) else _shown(value)
        raise ConfigError(f"{name} must be a batch of images (count, height, width, channels), got {shape}")
    if not torch.isfinite(value).all():
        raise ConfigError(f"{name} contain values that are not numbers; check the node that makes them")
    return in_range(value, "the batch of images", _OVERSHOOT)


def _refuse_other_kind(name: str, kind: str, value: Any) -> None:
    classes: Mapping[str, type] = _OWN_TYPES
    if kind == "MCTI_CLIP_SPACE":
        from ..mcti_core.hosts.comfy.clip_space import ClipFile

        classes = {kind: ClipFile}
    if not (isinstance(value, classes[kind]) if kind in classes else not isinstance(value, _PLAIN_TYPES)):
        raise ConfigError(f"{name} must be {kind}, got {_shown(value)}; check what is connected to it")


def _shown(value: Any) -> str:
    """A number or a short text for a message; otherwise the value's class."""
    if isinstance(value, int) and abs(value) >= 10**30:  # Python refuses to print very long numbers
        return "a number of more than 30 digits"
    return f"{value!r:.60}" if isinstance(value, (int, float, str)) else f"a {type(value).__name__}"
