"""Sort, caption and review classified images."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..data.dataset import FewShotDataset
from ..data.feature_cache import FeatureCache
from ..data.label_table import read_corrections
from ..data.sorting import class_folders, free_targets
from ..errors import counted
from ..escaping import escaped, without_surrogates
from ..files.output_lock import lock_output
from ..files.provenance import check_outputs
from ..files.transfer import transfer
from ..files.writing import check_writable, write_own
from ..hosts.base import Host
from ..tokens.names import find_class, safe_names
from ..tokens.token_set import UNKNOWN, TokenSet
from .console import progress_bar, say
from .review_page import Item, write_review

__all__ = ["check_curation", "curate"]

_MAX_REVIEWED = 1000
"""Maximum number of images on the review page."""
_NUM_NEIGHBOURS = 3
"""Number of nearest examples per image."""


def check_curation(arguments: argparse.Namespace) -> dict[str, str]:
    """Check the outputs of ``curate`` before any work.

    Returns:
        Corrections, as ``data.label_table.read_corrections`` returns them.

    Raises:
        FileError: a folder cannot be written to, a page already exists, or the corrections cannot be read.
    """
    if root := arguments.move_to or arguments.copy_to:
        check_writable(root)
    if arguments.review:
        check_outputs([arguments.review], overwrite=arguments.overwrite)
    return read_corrections(arguments.corrections) if arguments.corrections else {}


def curate(
    arguments: argparse.Namespace, corrections: Mapping[str, str], records: Sequence[Mapping[str, Any]], tokens: TokenSet,
    host: Host,
) -> None:  # fmt: skip
    """Sort, caption and review images, as the options of ``mcti classify`` say.

    Args:
        corrections: absolute path -> label that replaces the answer.
        records: one per image, from ``classify.record_of``; unreadable images are skipped.
    """
    answered = _once({Path(record["image"]): record for record in records if "error" not in record})
    labels = {path: corrections.get(os.path.abspath(path), record["label"] or "") for path, record in answered.items()}
    caption, places = arguments.caption, {path: path for path in labels}
    captions = {path: _caption(caption, label, tokens) for path, label in labels.items() if caption and label}
    if arguments.move_to or arguments.copy_to:
        places |= _sort(arguments, labels, captions, tokens)
    elif caption:
        _write_captions(captions)
    if arguments.review:
        _review(arguments, answered, labels, places, tokens, host)


def _once(answered: Mapping[Path, Mapping[str, Any]]) -> dict[Path, Mapping[str, Any]]:
    """Each image once, also if it was given in several spellings; a link is an image of its own."""
    first_paths, real_folders = dict[tuple[str, str], Path](), dict[Path, str]()
    for path in answered:
        folder = real_folders.get(path.parent) or real_folders.setdefault(path.parent, os.path.realpath(path.parent))
        first_paths.setdefault((folder, path.name), path)
    return {path: answered[path] for path in first_paths.values()}


def _sort(
    arguments: argparse.Namespace, labels: Mapping[Path, str], captions: Mapping[Path, str], tokens: TokenSet
) -> dict[Path, Path]:
    """Move or copy images and write their captions. Returns old path -> new path of moved images."""
    root, move = arguments.move_to or arguments.copy_to, arguments.move_to is not None
    links = {path for path in labels if move and path.is_symlink()}
    say(f"{counted(len(links), 'link')} not moved; --copy-to copies what links lead to" if links else "")
    labels_of_folders = list(dict.fromkeys((*tokens.labels, *filter(None, labels.values()))))
    folders = dict(zip(labels_of_folders, class_folders(labels_of_folders), strict=True))
    with lock_output(root, folder=True), progress_bar("sorting", "file") as progress:
        pairs = free_targets(
            (path, root / folders[label]) for path, label in labels.items() if label and path not in links
        )
        moved, targets = dict(pairs), {target for _, target in pairs}
        # an image that is in its folder already stays, and gets its caption there
        places = {
            path: moved.get(path, root / folders[labels[path]] / path.name) for path in captions if path not in links
        }
        texts = {place.with_suffix(".txt"): captions[path] for path, place in places.items()}
        # an existing caption stays, or is among the transferred files
        new_texts = {path: text for path, text in texts.items() if path not in targets and not os.path.lexists(path)}
        if not pairs and not new_texts:
            say(f"there is no image to {'move' if move else 'copy'}")
            return {}
        undo_list = transfer(pairs, new_texts, root, move=move, progress=progress)
    images = counted(sum(path in labels for path in moved), "image")
    print(escaped(f"{images} {'moved' if move else 'copied'} to {root}; to undo this: mcti undo {undo_list}"))
    return moved if move else {}


def _write_captions(captions: Mapping[Path, str]) -> None:
    """Write captions next to the images; existing captions are kept."""
    new = {text: caption for path, caption in captions.items() if not os.path.lexists(text := path.with_suffix(".txt"))}
    for path, caption in new.items():
        write_own(path, lambda file, caption=caption: file.write_text(caption, encoding="utf-8"), lambda _: False)  # type: ignore[misc]
    kept = len(captions) - len(new)
    print(f"{counted(len(new), 'caption')} written" + f"; {kept} were there already and stay as they are" * bool(kept))


def _caption(template: str, label: str, tokens: TokenSet) -> str:
    """The caption, with the template's whitespace collapsed to one line."""
    index = find_class(label, tokens.labels, tokens.names)
    values = {"label": label, "token": safe_names([label])[0] if index is None else tokens.names[index]}
    caption = " ".join(re.sub(r"\{(label|token)\}", lambda found: values[found[1]], template).split())
    return without_surrogates(caption)


def _review(
    arguments: argparse.Namespace, answered: Mapping[Path, Mapping[str, Any]], labels: Mapping[Path, str],
    places: Mapping[Path, Path], tokens: TokenSet, host: Host,
) -> None:  # fmt: skip
    """Write the review page of the least confident answers."""
    shown = sorted(answered, key=lambda path: float(answered[path]["confidence"]))[:_MAX_REVIEWED]
    nearest = _nearest_examples(arguments, [places[path] for path in shown], host)
    items = []
    for path, examples in zip(shown, nearest, strict=True):
        top = [f"{each['label']}: {100 * each['confidence']:.1f} %" for each in answered[path]["top"][:2]]
        items.append(Item(str(places[path]), labels[path] or UNKNOWN, ", ".join(top), examples))
    more = len(answered) - len(shown)
    remark = f"These are the least confident answers; {more} others are not shown." if more else ""
    write_review(items, tokens.labels, arguments.review, remark)
    print(escaped(f"{counted(len(items), 'image')} to review in {arguments.review}"))


def _nearest_examples(arguments: argparse.Namespace, images: Sequence[Path], host: Host) -> list[list[Path]]:
    """Per image, the examples with the most similar image features; none without ``--examples``."""
    if arguments.examples is None or not images:
        return [[] for _ in images]

    def features(dataset: FewShotDataset, description: str) -> torch.Tensor:
        with progress_bar(description, "image") as progress:
            cache = FeatureCache.build(host, dataset, hflip=False, latents=False, progress=progress)
        assert cache.features is not None  # ensured by option_checks
        return cache.features[:, 0]

    examples = FewShotDataset.from_folder(arguments.examples, min_classes=1)
    answered = FewShotDataset(("image",), tuple(images), torch.zeros(len(images), dtype=torch.long), min_classes=1)
    similarity = features(answered, "images to review") @ features(examples, "examples").T
    nearest = similarity.topk(min(_NUM_NEIGHBOURS, len(examples)), dim=1).indices.tolist()
    return [[path for index in row if isinstance(path := examples.images[index], Path)] for row in nearest]
