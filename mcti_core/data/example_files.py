"""Find the images in a folder, and count unused files by reason."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from ..errors import ExamplesError
from ..files.kinds import IMAGE_SUFFIXES, READ_KINDS, kind_of, reader_hint, suffix_reason
from ..files.provenance import is_marked
from ..files.regular import read_start
from ..files.safe_load import format_of
from ..tokens.names import label_of_folder

__all__ = ["Skipped", "find_class_folders", "find_images", "holds_images", "is_system_folder", "list_folder"]

_SYSTEM_FILES = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "zbthumbnail.info", "picasa.ini"}
"""Names of files that operating systems create, in lower case."""
_SYSTEM_FOLDERS = {
    "@eadir", "@tmp", "#recycle", "@recycle", "#snapshot", "@recently-snapshot", "@synoresource", "__macosx", "$recycle.bin",
    "system volume information", "lost+found", "found.000", "__pycache__", "network trash folder", "temporary items", "recycler",
    "recycled",
}  # fmt: skip
"""Names of folders that operating systems and NAS devices create, in lower case."""
_KOHYA = re.compile(r"[1-9]\d{0,2}_(\S.*)")
"""A folder name of kohya's scripts: the number of repeats, and the label. ``2021_rome`` does not match."""
_MAX_DEPTH = 4
"""Maximum depth of the search for class folders, for an error message."""
_FOLDER, _NOT_AN_IMAGE, _WRITTEN_HERE = "folder", "not an image", "written by MC-TI"
_MASK_ENDING = "-masklabel.png"
"""End of the name of OneTrainer's masks, after the stem of the image."""
_UNUSED_MASK = "mask", "masks are not enabled"


@dataclass
class Skipped:
    """Counts of unused files and folders, by kind and reason."""

    first: dict[tuple[str, str], str] = field(default_factory=dict)
    """(kind, reason) -> the first path. A kind is for example ".heic file" or "folder"."""
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    """Other messages about the folder."""

    def add(self, kind: str, reason: str, path: str) -> None:
        self.counts[kind, reason] += 1
        self.first.setdefault((kind, reason), path)

    def forget(self, used: Sequence[Path]) -> None:
        """Remove captions and masks that are in use."""
        for path in used:
            is_mask = path.name.endswith(_MASK_ENDING)
            self.counts[_UNUSED_MASK if is_mask else (f"{path.suffix.lower()} file", _NOT_AN_IMAGE)] -= 1
        self.counts = +self.counts

    def report(self) -> str:
        """One line for a message, the most frequent kind first; empty if everything is used."""
        groups = []
        for (kind, reason), count in self.counts.most_common():
            plural = kind.replace("file", "files", 1) if "file" in kind else f"{kind}s"
            found, hint = (f"{count} {plural}", "the first is ") if count > 1 else (f"1 {kind}", "")
            groups.append(f"{found} skipped: {reason} ({hint}{self.first[kind, reason]})")
        return "; ".join([*groups, *self.notes])


def find_images(path: str | Path) -> list[Path]:
    """Usable image files of a folder, sorted by name; or the given file."""
    path = Path(path)
    return [path] if path.is_file() else [path / name for name in list_folder(path, Skipped())[0]]


def holds_images(folder: Path) -> bool:
    """Whether a folder contains files with suffixes of images."""
    names = (name for name in os.listdir(folder) if not name.startswith("."))
    return any(os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES for name in names)


def is_system_folder(name: str) -> bool:
    """Whether a folder is hidden, or has a name that operating systems use."""
    return name.startswith(".") or name.lower() in _SYSTEM_FOLDERS


def list_folder(folder: str | Path, skipped: Skipped, *, generated: bool = False) -> tuple[list[str], list[str]]:
    """Sorted names of the images and of the subfolders in a folder.

    Links are followed. Hidden files and folders, and system files, are ignored silently.

    Args:
        folder: path of the folder; "" is the current folder.
        skipped: counts all other files.
        generated: include images that this program wrote, except its loss curves.

    Raises:
        ExamplesError: the folder cannot be read.
    """
    images, folders = [], []
    try:
        with os.scandir(folder or ".") as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name.lower() in _SYSTEM_FILES:
                    continue
                if os.path.isdir(entry.path):
                    folders.append(entry.name)
                elif reason := _reason(entry, generated):
                    skipped.add(*reason, os.path.join(folder, entry.name))
                else:
                    images.append(entry.name)
    except OSError as error:
        raise ExamplesError(f"the folder {folder} cannot be read ({error.strerror}); check its permissions") from error
    masks = {name for name in images if name.endswith(_MASK_ENDING)}
    if masks:
        masks &= {os.path.splitext(name)[0] + _MASK_ENDING for name in images}
    for name in sorted(masks):
        skipped.add(*_UNUSED_MASK, os.path.join(folder, name))
    return sorted(set(images) - masks), sorted(folders)


def _reason(entry: os.DirEntry[str], generated: bool) -> tuple[str, str] | None:
    """Kind of a file, and the reason why it is not a usable image; None if it is."""
    suffix = os.path.splitext(entry.name)[1].lower()
    kind = f"{suffix} file" if len(suffix) > 1 else "file without suffix"
    if not os.path.isfile(entry.path):
        leads_nowhere = entry.is_symlink() and not os.path.exists(entry.path)
        return kind, "a link that leads nowhere" if leads_nowhere else "not a regular file"
    reason = suffix_reason(suffix)
    if reason is None:
        reason = _NOT_AN_IMAGE if len(suffix) > 1 and suffix[1:].isalnum() else _reason_by_content(entry.path)
    if not reason and suffix == ".png" and (not generated or entry.name == "loss.png") and is_marked(Path(entry.path)):
        reason = _WRITTEN_HERE
    return (kind, reason) if reason else None


def _reason_by_content(path: str) -> str:
    """The reason for a file without a suffix; "" for an image."""
    try:
        kind = kind_of(read_start(path, 64))
    except OSError:
        return "cannot be read"
    return reader_hint(kind) if kind in READ_KINDS else _NOT_AN_IMAGE


def find_class_folders(root: str | Path) -> tuple[list[tuple[str, list[Path]]], Skipped]:
    """Find ``root/<class>/<image>``.

    Folders that this program wrote, system folders, and folders without images are not classes.

    Returns:
        Label and images of each class folder, sorted by its name; and the unused content.

    Raises:
        ExamplesError: the folder is missing or unreadable, or a class folder has only unusable images, or images only in
            subfolders.
    """
    root = Path(root)
    if not os.path.isdir(root):  # unlike Path.is_dir, no error in an unreadable folder
        is_file = os.path.isfile(root)
        wrong = f"{root} is a file; unpack it if it is an archive, and" if is_file else f"there is no folder {root};"
        raise ExamplesError(f"{wrong} give a folder that contains one folder of images per class")
    skipped, classes, deeper = Skipped(), list[tuple[str, list[Path]]](), list[tuple[Path, list[str]]]()
    loose, names = list_folder(root, Skipped())
    for name in loose:
        skipped.add("image", "not in a class folder", str(root / name))
    for name in names:
        path, found = root / name, Skipped()
        if is_system_folder(name):
            skipped.add(_FOLDER, "system folder", str(path))
            continue
        images, inner = list_folder(path, found)
        inner = [each for each in inner if not is_system_folder(each)]
        if set(images) <= {"loss.png"} and _holds_results(path):
            skipped.add(_FOLDER, _WRITTEN_HERE, str(path))
            continue
        if images:
            classes.append((label_of_folder(name), [path / image for image in images]))
            for each in inner:
                found.add(_FOLDER, "folders in a class folder are ignored", str(path / each))
        elif image_folders := [each for each in inner if list_folder(path / each, Skipped())[0]]:
            deeper.append((path, image_folders))
        elif any(kind != _FOLDER and reason not in (_NOT_AN_IMAGE, _WRITTEN_HERE) for kind, reason in found.counts):
            raise ExamplesError(f"class {name!r} has no image that can be used: {found.report()}")
        else:
            empty = "no images in it or one level down" if inner else "empty"
            skipped.add(_FOLDER, "no images" if found.counts else empty, str(path))
        skipped.counts.update(found.counts)
        skipped.first = {**found.first, **skipped.first}
    if deeper:
        raise ExamplesError(_images_too_deep(deeper, bool(classes)))
    if not classes and (levels := list(islice(_levels(root, _MAX_DEPTH), 3))):
        raise ExamplesError(
            f"the folders in {root} contain no images, but deeper folders do; give the level above those: "
            f"{' or '.join(map(str, levels))}"
        )
    return _without_kohya_repeats(classes, skipped), skipped


def _levels(folder: Path, depth: int) -> Iterator[Path]:
    """Yield folders down to this depth that contain at least two folders of images, by file suffixes."""
    try:
        inner = [entry for entry in sorted(folder.iterdir()) if entry.is_dir() and not is_system_folder(entry.name)]
        if sum(map(holds_images, inner)) > 1:
            yield folder
            return
    except OSError:  # an unreadable folder is reported when the user gives it
        return
    for each in inner if depth else ():
        yield from _levels(each, depth - 1)


def _holds_results(folder: Path) -> bool:
    """Whether this program wrote tokens, a checkpoint, features or a report to the folder."""
    try:
        return any(
            "mcti-" in (format_of(path) or "")
            if path.suffix == ".safetensors"
            else path.suffix in (".json", ".html", ".png") and is_marked(path)
            for path in folder.iterdir()
        )
    except OSError:  # removed in the meantime
        return False


def _without_kohya_repeats(classes: list[tuple[str, list[Path]]], skipped: Skipped) -> list[tuple[str, list[Path]]]:
    """Remove the number of repeats of kohya's scripts from the labels, if all have one: ``10_cat`` becomes ``cat``."""
    matches = [match for label, _ in classes if (match := _KOHYA.fullmatch(label))]
    if not matches:
        return classes
    labels, example = [match[1] for match in matches], matches[0][0]
    if len(set(labels)) < len(classes):
        why = "two classes would have one label" if len(labels) == len(classes) else "others are not"
        skipped.notes.append(f"{example!r} is named as for kohya's scripts, but {why}: the whole name is the label")
        return classes
    skipped.notes.append(
        f"the folders are named as for kohya's scripts, so the label of {example!r} is {labels[0]!r}; the number of "
        "repeats is not used, since each class is drawn equally often"
    )
    return [(label, images) for label, (_, images) in zip(labels, classes, strict=True)]


def _images_too_deep(deeper: Sequence[tuple[Path, list[str]]], has_classes: bool) -> str:
    """Message about folders without images, each with the folders of images in it."""
    levels = [] if has_classes else [(folder, inner) for folder, inner in deeper if len(inner) > 1]
    folder, inner = (levels or deeper)[0]
    shown = ", ".join(inner[:4]) + (", ..." if len(inner) > 4 else "")
    if levels:
        choices = " or ".join(str(level) for level, _ in levels[:3])
        return f"{folder} contains no images but folders of images ({shown}); give the level above them: {choices}"
    return f"the class folder {folder} contains its images only in folders ({shown}); move the images up into {folder}"
