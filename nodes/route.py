"""Node that splits a batch of images by class: Route Images By Class."""

from __future__ import annotations

import logging
import re
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..mcti_core.errors import ConfigError, listed
from ..mcti_core.escaping import escaped
from ..mcti_core.tokens.names import normal_form, safe_names
from ..mcti_core.tokens.references import plain_letters
from ..mcti_core.tokens.token_set import UNKNOWN
from .checking import Node
from .schema import node_schema
from .types import images_in, images_out

__all__ = ["Route"]

_LOG = logging.getLogger(__name__)
_MAX_SUGGESTIONS = 20


class Route(Node):
    LISTS = frozenset({"images", "labels", "wanted", "confidences"})

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="MCTI_Route",
            search_aliases=["filter images", "sort images", "split batch", "classifier", "select by label"],
            inputs=[
                io.Image.Input("images"),
                io.String.Input("labels", force_input=True),
                io.String.Input("wanted", default=""),
                io.Float.Input("min_confidence", default=0.0, min=0.0, max=1.0, step=0.01),
                io.Float.Input("confidences", force_input=True, optional=True),
            ],
            outputs=[
                io.Image.Output("matching", is_output_list=True),
                io.Image.Output("unmatched", is_output_list=True),
                io.String.Output("matching_labels", is_output_list=True),
                io.String.Output("unmatched_labels", is_output_list=True),
            ],
            is_input_list=True,
        )

    @classmethod
    def execute(
        cls, images: list[Tensor], labels: list[str], wanted: list[str], min_confidence: float,
        confidences: list[float] | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        count = sum(len(batch) for batch in images)
        if count != len(labels):
            raise ConfigError(
                f"there are {count} images and {len(labels)} labels; connect the images that were classified"
            )
        if min_confidence > 0 and confidences is None:
            raise ConfigError(
                f"min_confidence is {min_confidence:g} and no confidences are connected; connect those of the classifier, or set it to 0"
            )
        sure = confidences if confidences is not None else [1.0] * len(labels)
        if len(sure) != len(labels):
            raise ConfigError(
                f"there are {len(labels)} labels and {len(sure)} confidences; connect both from the same classifier"
            )
        _log_unmatched(wanted, labels)
        forms = set(map(normal_form, labels))
        keep = torch.tensor(
            [
                confidence >= min_confidence and _is_wanted(label, names, forms)
                for label, confidence, names in zip(labels, sure, _wanted_of_each(wanted, images), strict=True)
            ]
        )
        return io.NodeOutput(
            _images(images, keep), _images(images, ~keep), _labels(labels, keep), _labels(labels, ~keep)
        )


def _is_wanted(label: str, wanted: set[str], labels: set[str]) -> bool:
    """Whether a class is wanted, by its label, or by its token's name if no class has that label; without names, every class is."""
    if not wanted:
        return label != UNKNOWN
    form = normal_form(label)
    token_form = form if label == UNKNOWN else normal_form(safe_names([label])[0])
    return form in wanted or (token_form in wanted and token_form not in labels)


def _entries(wanted: str) -> list[str]:
    """The names in a text: the whole text, which may be a label with commas, and its parts between commas and line breaks."""
    return [name for name in map(str.strip, (wanted, *re.split(r"[,\n\r]", wanted))) if name]


def _log_unmatched(wanted: list[str], labels: list[str]) -> None:
    """Log each wanted name that no image has, with a suggestion if a label differs only by accents or the width of letters."""
    labels_by_letters = {plain_letters(label): label for label in labels}
    forms = {normal_form(text) for label in set(labels) for text in (label, *safe_names([label]))}
    absent, suggested = [], 0
    for whole, *parts in filter(None, map(_entries, dict.fromkeys(wanted))):
        names = [] if normal_form(whole) in forms else dict.fromkeys(parts or [whole])
        for name in (name for name in names if normal_form(name) not in forms):
            if (close := labels_by_letters.get(plain_letters(name))) and suggested < _MAX_SUGGESTIONS:
                suggested += 1
                _LOG.warning(
                    "Route Images By Class: no image has the label %s; did you mean %s?", escaped(name), escaped(close)
                )
            else:
                absent.append(name)
    if absent:
        _LOG.info("Route Images By Class: no image has the label %s", escaped(listed(absent)))


def _wanted_of_each(wanted: list[str], images: list[Tensor]) -> list[set[str]]:
    """The wanted labels of each image: the same for all, or one set per batch."""
    if len(wanted) not in (1, len(images)):
        raise ConfigError(
            f"wanted has {len(wanted)} texts for {len(images)} batches of images; give one text for all, or one per batch"
        )
    names = [set(map(normal_form, _entries(text))) for text in wanted]
    return [
        of_batch
        for of_batch, batch in zip(names * (len(images) // len(names)), images, strict=True)
        for _ in range(len(batch))
    ]


def _images(batches: list[Tensor], chosen: Tensor) -> list[Any]:
    """The chosen images of each batch, without empty batches."""
    parts = chosen.split([len(batch) for batch in batches])
    return _filled(
        [images_out(images_in(batch[part])) for batch, part in zip(batches, parts, strict=True) if part.any()]
    )


def _labels(labels: list[str], chosen: Tensor) -> list[Any]:
    return _filled([label for label, it in zip(labels, chosen.tolist(), strict=True) if it])


def _filled(values: list[Any]) -> list[Any]:
    """A list for ComfyUI; instead of an empty one, which no node accepts, a value that keeps the connected nodes from running."""
    from comfy_execution.graph_utils import ExecutionBlocker

    return values or [ExecutionBlocker(None)]
