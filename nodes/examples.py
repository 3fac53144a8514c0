"""Nodes that collect example images, from a folder of class folders or one class at a time."""

from __future__ import annotations

import logging
import math
import os
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..mcti_core.data.dataset import FewShotDataset, few_shot_split
from ..mcti_core.data.example_files import find_images
from ..mcti_core.data.sidecars import ALPHA, MASKLABEL, find_captions, find_masks
from ..mcti_core.errors import ExamplesError, MCTIError
from ..mcti_core.escaping import escaped
from ..mcti_core.images.reading import load_squares
from ..mcti_core.tokens.names import index_of
from ..mcti_core.viz.image_grid import image_grid
from .checking import Node, checked_text
from .context import user_errors
from .folders import class_folders, example_folder, refuse_outside
from .schema import advanced, node_schema
from .types import Examples, ExamplesType, images_in, picture_out

__all__ = ["AddExamples", "ExamplesFromFolder", "sheet", "split", "summary"]

_SHEET_COLUMNS, _SHEET_ROWS, _SHEET_PIXELS = 8, 20, 96


class ExamplesFromFolder(Node):
    LOOKED_UP = frozenset({"folder"})

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="MCTI_ExamplesFromFolder",
            search_aliases=["training images", "load dataset", "few-shot", "textual inversion"],
            inputs=[
                io.Combo.Input("folder", options=class_folders()),
                io.Int.Input("shots", default=0, min=0, max=1000),
                io.Int.Input("seed", default=0, min=0, max=2**31 - 1, control_after_generate=False),
                io.Int.Input("image_size", default=0, min=0, max=4096, step=8),
                advanced(io.Boolean.Input("captions", optional=True, default=False)),
                advanced(io.Combo.Input("masks", optional=True, options=["off", MASKLABEL, ALPHA], default="off")),
                advanced(io.Boolean.Input("buckets", optional=True, default=False)),
            ],
            outputs=[
                ExamplesType.Output("examples"),
                ExamplesType.Output("held_out"),
                io.Image.Output("sheet"),
                io.String.Output("summary"),
            ],
        )

    @classmethod
    def validate_inputs(cls, folder: str | None = None) -> bool | str:
        if folder is None:  # a link, whose value is checked in execute
            return True
        try:
            _read(checked_text("folder", folder))
        except MCTIError as error:
            return escaped(str(error))
        return True

    @classmethod
    def fingerprint_inputs(cls, folder: str | None = None, **others: Any) -> Any:
        """A value that changes with the folder's files, so that ComfyUI reads it again; NaN, which always does, for a link."""
        if folder is None:
            return math.nan
        with user_errors():
            root = example_folder(checked_text("folder", folder))
            try:
                files = [file for path in sorted(root.iterdir()) if path.is_dir() for file in find_images(path)]
                texts = find_captions(files).values() if others.get("captions") else ()
                masks = find_masks(files, MASKLABEL).values() if others.get("masks") == MASKLABEL else ()
                files = [*files, *texts, *masks]
                found = [(str(file), os.stat(file).st_mtime_ns, os.stat(file).st_size) for file in files]
            except (OSError, ExamplesError):  # execute reports a file that is removed or unreadable
                return math.nan
        return str(found), sorted(others.items())

    @classmethod
    def execute(
        cls, folder: str, shots: int, seed: int, image_size: int, captions: bool = False, masks: str = "off", buckets: bool = False
    ) -> io.NodeOutput:  # fmt: skip
        dataset = _read(folder, captions, None if masks == "off" else masks)
        if dataset.skipped:
            logging.info("MC-TI: %s", escaped(dataset.skipped))
        examples, *others = split(dataset, shots, seed, image_size)
        return io.NodeOutput(replace(examples, buckets=buckets), *others, summary(dataset))


class AddExamples(Node):
    LISTS = frozenset({"label", "images"})

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="MCTI_AddExamples",
            search_aliases=["training images", "dataset", "few-shot", "textual inversion"],
            inputs=[
                io.String.Input("label", default="my thing"),
                io.Image.Input("images"),
                ExamplesType.Input("previous", optional=True),
            ],
            outputs=[ExamplesType.Output("examples"), io.Image.Output("sheet")],
            is_input_list=True,
        )

    @classmethod
    def execute(cls, label: list[str], images: list[Tensor], previous: Examples | None = None) -> io.NodeOutput:
        before = previous or Examples({})
        classes = {name: list(those) for name, those in before.images.items()}
        for text, batch in _labelled(label, images):
            if not text.strip():
                raise ExamplesError("a label is empty; give every image's class a name")
            labels = list(classes)
            same = index_of(text.strip(), labels)  # for example in another Unicode normal form
            classes.setdefault(text.strip() if same is None else labels[same], []).extend(images_in(batch).cpu())
        examples = replace(before, images={name: tuple(those) for name, those in classes.items()})
        return io.NodeOutput(examples, sheet(examples))


def _labelled(labels: list[str], batches: list[Tensor]) -> list[tuple[str, Tensor]]:
    """Pair batches with labels: one label for all, one per batch, or one per image."""
    if len(labels) not in (1, len(batches)):
        batches = [image for batch in batches for image in batch.split(1)]
    if len(labels) not in (1, len(batches)):
        raise ExamplesError(
            f"there are {len(batches)} images and {len(labels)} labels; give one label for all, or one for each"
        )
    return list(zip(labels * (len(batches) // len(labels)), batches, strict=True))


def _read(folder: str, captions: bool = False, masks: str | None = None) -> FewShotDataset:
    try:
        dataset = FewShotDataset.from_folder(example_folder(folder), captions=captions, masks=masks)
    except OSError as error:
        raise ExamplesError(
            f"the folder {folder!r} cannot be read ({error.strerror}); check its permissions"
        ) from error
    images = [image for image in dataset.images if isinstance(image, Path)]
    refuse_outside([*images, *dataset.captions.values(), *dataset.masks.values()], folder)
    return dataset


def split(dataset: FewShotDataset, shots: int, seed: int, size: int) -> tuple[Examples, Examples, Tensor]:
    """Split into examples and held-out examples, and draw a contact sheet of the examples."""
    if shots == 0:
        examples = Examples.of(dataset, size)
        return examples, Examples(dict.fromkeys(dataset.classes, ()), size), sheet(examples)
    try:
        few, others = few_shot_split(dataset.labels, dataset.classes, shots, seed)
    except ExamplesError as error:
        raise ExamplesError(f"{error}; lower shots, or set it to 0 to learn from all images") from error
    examples = Examples.of(dataset, size, few)
    held_out = Examples.of(dataset, size, others)
    return replace(examples, held_out=held_out), held_out, sheet(examples)


def summary(dataset: FewShotDataset) -> str:
    """Number of images per class, then the folder's unused files, one kind per line."""
    counts = torch.bincount(dataset.labels, minlength=len(dataset.classes)).tolist()
    lines = [f"{len(dataset)} images, {len(dataset.classes)} classes"]
    lines += [f"{label}: {count}" for label, count in zip(dataset.classes, counts, strict=True)]
    return "\n".join(escaped(line) for line in [*lines, *dataset.skipped.split("; ")] if line)


def sheet(examples: Examples) -> Tensor:
    """Contact sheet of the first images of the first classes, one row per class."""
    shown = list(examples.images.items())[:_SHEET_ROWS]
    squares = iter(load_squares([image for _, images in shown for image in images[:_SHEET_COLUMNS]], _SHEET_PIXELS))
    rows = {label: list(islice(squares, min(len(images), _SHEET_COLUMNS))) for label, images in shown}
    return picture_out(image_grid(list(rows.values()), list(rows)))
