"""Sort, caption and review classified images."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import counted
from ..escaping import escaped
from .console import progress_bar, say

if TYPE_CHECKING:
    from ..hosts.base import Host
    from ..tokens.token_set import TokenSet

__all__ = ["check_curation", "curate", "is_curated"]

_REVIEWED = 1000
"""Most images of a page: the least confident ones."""
_NEAREST = 3
"""Examples beside an image."""


def is_curated(arguments: argparse.Namespace) -> bool:
    """Whether something is to be done with the images once they are classified."""
    return any((arguments.move_to, arguments.copy_to, arguments.caption, arguments.review))


def check_curation(arguments: argparse.Namespace) -> dict[str, str]:
    """Check all that ``curate`` will write, before any work.

    Returns:
        The corrections, see ``data.label_table.read_corrections``.

    Raises:
        FileError: a place cannot be written to, a result is there already, or the corrections cannot be read.
    """
    from ..data.label_table import read_corrections
    from ..files.outputs import check_writable, refuse_to_replace
    from ..files.ownership import refuse_foreign
    from ..files.provenance import is_marked

    if root := arguments.move_to or arguments.copy_to:
        check_writable(root)
    if page := arguments.review:
        refuse_foreign(page, is_marked)
        refuse_to_replace([page], overwrite=arguments.overwrite)
        check_writable(page.parent, [page.name])
    return read_corrections(arguments.corrections) if arguments.corrections else {}


def curate(
    arguments: argparse.Namespace, corrections: Mapping[str, str], records: Sequence[Mapping[str, Any]], tokens: TokenSet,
    host: Host,
) -> None:  # fmt: skip
    """Do what the command's options ask for.

    Args:
        arguments: of ``mcti classify``.
        corrections: absolute path -> label, in place of the answer.
        records: the images' answers, as ``classify.record_of`` gives them; images that could not be read are passed over.
    """
    answered = {Path(record["image"]): record for record in records if "error" not in record}
    labels = {path: corrections.get(os.path.abspath(path), record["label"] or "") for path, record in answered.items()}
    captions = {}
    if arguments.caption:
        captions = {path: _caption(arguments.caption, label, tokens) for path, label in labels.items() if label}
    places = {path: path for path in labels}
    if arguments.move_to or arguments.copy_to:
        places |= _sort(arguments, labels, captions, tokens)
    elif arguments.caption:
        _write_captions(captions)
    if arguments.review:
        _review(arguments, answered, labels, places, tokens, host)


def _sort(
    arguments: argparse.Namespace, labels: Mapping[Path, str], captions: Mapping[Path, str], tokens: TokenSet
) -> dict[Path, Path]:
    """Move or copy images and write their captions. Returns the new places of moved images."""
    from ..data.sorting import class_folders, free_targets
    from ..files.output_lock import lock_output
    from ..files.transfer import transfer

    root, move = arguments.move_to or arguments.copy_to, arguments.move_to is not None
    links = {path for path in labels if move and path.is_symlink()}
    say(f"{counted(len(links), 'link')} not moved; --copy-to copies what links lead to" if links else "")
    every = list(dict.fromkeys((*tokens.labels, *filter(None, labels.values()))))
    folders = dict(zip(every, class_folders(every), strict=True))
    with lock_output(root, folder=True), progress_bar("sorting", "file") as progress:
        pairs = free_targets(
            (path, root / folders[label]) for path, label in labels.items() if label and path not in links
        )
        if not pairs:
            say(f"there is no image to {'move' if move else 'copy'}")
            return {}
        moved, taken = dict(pairs), {target for _, target in pairs}
        texts = {moved[path].with_suffix(".txt"): text for path, text in captions.items() if path in moved}
        own = {path: text for path, text in texts.items() if path not in taken}  # an image's own caption goes with it
        listed = transfer(pairs, own, root, move=move, progress=progress)
    images = counted(sum(path in labels for path in moved), "image")
    print(escaped(f"{images} {'moved' if move else 'copied'} to {root}; to undo this: mcti undo {listed}"))
    return moved if move else {}


def _write_captions(captions: Mapping[Path, str]) -> None:
    """Write captions beside the images; those that are there stay as they are."""
    from ..files.ownership import write_own

    new = {text: caption for path, caption in captions.items() if not os.path.lexists(text := path.with_suffix(".txt"))}
    for path, caption in new.items():
        write_own(path, lambda file, caption=caption: file.write_text(caption, encoding="utf-8"), lambda _: False)  # type: ignore[misc]
    kept = len(captions) - len(new)
    print(f"{counted(len(new), 'caption')} written" + f"; {kept} were there already and stay as they are" * bool(kept))


def _caption(template: str, label: str, tokens: TokenSet) -> str:
    """A caption on one line."""
    from ..tokens.names import find_class, safe_names

    index = find_class(label, tokens.labels, tokens.names)
    values = {"label": label, "token": safe_names([label])[0] if index is None else tokens.names[index]}
    return " ".join(re.sub(r"\{(label|token)\}", lambda found: values[found[1]], template).split())


def _review(
    arguments: argparse.Namespace, answered: Mapping[Path, Mapping[str, Any]], labels: Mapping[Path, str],
    places: Mapping[Path, Path], tokens: TokenSet, host: Host,
) -> None:  # fmt: skip
    """Write the page of the least confident answers."""
    from ..tokens.token_set import UNKNOWN
    from .review_page import Item, write_review

    shown = sorted(answered, key=lambda path: float(answered[path]["confidence"]))[:_REVIEWED]
    nearest = _nearest_examples(arguments, [places[path] for path in shown], host)
    items = []
    for path, examples in zip(shown, nearest, strict=True):
        top = [f"{each['label']}: {100 * each['confidence']:.1f} %" for each in answered[path]["top"][:2]]
        items.append(Item(os.path.abspath(places[path]), labels[path] or UNKNOWN, ", ".join(top), examples))
    more = len(answered) - len(shown)
    remark = f"These are the least confident answers; {more} others are not shown." if more else ""
    write_review(items, tokens.labels, arguments.review, remark)
    print(escaped(f"{counted(len(items), 'image')} to review in {arguments.review}"))


def _nearest_examples(arguments: argparse.Namespace, images: Sequence[Path], host: Host) -> list[list[Path]]:
    """The examples whose image features are most similar to each image's; none without ``--examples``."""
    if arguments.examples is None:
        return [[] for _ in images]
    import torch
    from torch.nn.functional import normalize

    from ..classifiers.clip import image_features
    from ..data.dataset import FewShotDataset
    from ..data.feature_cache import FeatureCache
    from ..images.reading import load_squares

    dataset = FewShotDataset.from_folder(arguments.examples, alone=True)
    with progress_bar("examples", "image") as progress:
        cache = FeatureCache.build(host, dataset, mirror=False, latents=False, progress=progress)
    assert cache.features is not None  # as the options are checked
    features = [
        image_features(host, torch.stack(load_squares(images[start : start + 32], host.image_size)))
        for start in range(0, len(images), 32)
    ]
    likeness = normalize(torch.cat(features), dim=1) @ cache.features[:, 0].T
    best = likeness.topk(min(_NEAREST, len(dataset)), dim=1).indices.tolist()
    return [[path for index in row if isinstance(path := dataset.images[index], Path)] for row in best]
