"""The work of ``mcti convert``: single classes, each with the file it was read from, until they are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

from ..errors import TokenError, counted
from .embedding_cards import CARD_SUFFIXES, has_card
from .formats import SUFFIXES
from .io import SUFFIX, import_embedding, in_set_order, is_token_set, load_tokens
from .names import find_classes, normal_form, safe_names
from .ops import rename
from .token_set import TokenSet

__all__ = [
    "Inputs", "Operation", "SourceClass", "apply_operations", "group", "read_inputs", "refuse_twins",
]  # fmt: skip

Operation = tuple[str, Sequence[str]]
"""``"select"``, ``"labels"`` or ``"rename"``, and its arguments."""
_BESIDE_SET = {"embeddings", "loss.png", "README.md", "run.toml", "log.csv", "logs", "samples"}
"""What a training writes beside its token set: the same tokens, pictures, and logs."""


@dataclass(frozen=True)
class SourceClass:
    """One class and its source."""

    path: Path
    original: str
    """The class's label in that file."""
    tokens: TokenSet
    """A token set of this class only."""

    @property
    def label(self) -> str:
        return self.tokens.labels[0]

    @property
    def name(self) -> str:
        return self.tokens.names[0]


@dataclass
class Inputs:
    """The classes that were read, and the files that were not."""

    classes: list[SourceClass] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    """One message for each file or folder that could not be read."""
    skipped: list[str] = field(default_factory=list)
    """One message for each folder with other files, and for each repeated embedding."""
    _first: dict[tuple[object, ...], SourceClass] = field(default_factory=dict)
    """By ``_content``, the first class that has it."""

    def add(self, path: Path, tokens: TokenSet) -> None:
        """Add each class of a file; skip an embedding that is already present."""
        for index, label in enumerate(tokens.labels):
            one = SourceClass(path, label, tokens.select([index]))
            first = self._first.setdefault(_content(one.tokens), one)
            if first is one or len(tokens) > 1:
                self.classes.append(one)
            else:
                self.skipped.append(f"{path}: left out, the same embedding as in {first.path}")


def _content(tokens: TokenSet) -> tuple[object, ...]:
    """Content of an embedding, equal for copies of it."""
    # + 0 makes -0.0 and 0.0 the same bytes
    vectors = {(name, v.shape, sha256((v + 0).numpy().tobytes()).digest()) for name, v in tokens.vectors.items()}
    return (tokens.labels, tokens.pooling, tokens.templates, frozenset(vectors))


def read_inputs(inputs: Sequence[Path]) -> Inputs:
    """Read token sets, embeddings, and folders of both, in the given order. An unreadable file does not stop the others.

    Embeddings in a folder are in their set's order if they are all of one set.
    """
    found = Inputs()
    for given in inputs:
        try:
            files = _files_of(given, found) if given.is_dir() else [given]
        except OSError as error:
            found.failed.append(_unreadable(given, error))
            continue
        embeddings: list[tuple[Path, TokenSet, tuple[str, ...]]] = []
        for path in files:
            try:
                if is_token_set(path):
                    found.add(path, load_tokens(path))
                else:
                    embeddings.append((path, *import_embedding(path)))
            except TokenError as error:
                found.failed.append(str(error))
            except OSError as error:
                found.failed.append(_unreadable(path, error))
        for index in in_set_order([(tokens, set_labels) for _, tokens, set_labels in embeddings]):
            found.add(*embeddings[index][:2])
    return found


def _unreadable(path: Path, error: OSError) -> str:
    return f"{path}: cannot be read ({error.strerror or error})"


def _files_of(folder: Path, found: Inputs) -> list[Path]:
    """The files of a folder that are read; the rest is counted by kind."""
    read, others = list[Path](), list[Path]()
    for path in sorted(folder.iterdir()):
        kind = path.suffix.lower()
        is_card = kind in CARD_SUFFIXES and not path.stem.lower().endswith(".preview") and has_card(path)
        is_beside_set = path.name in _BESIDE_SET and is_token_set(folder / f"tokens{SUFFIX}")
        if not is_beside_set and not path.name.startswith("."):
            (read if is_card or (kind in SUFFIXES and not path.is_dir()) else others).append(path)
    counts = Counter("folder" if path.is_dir() else path.suffix or "without suffix" for path in others)
    listed = ", ".join(counted(n, kind) if kind == "folder" else f"{n} {kind}" for kind, n in sorted(counts.items()))
    if not read:
        known = f"{', '.join(SUFFIXES)} or image with an embedding"
        found.failed.append(f"{folder} contains no {known}" + (f"; it contains {listed}" if listed else ""))
    elif listed:
        found.skipped.append(f"{folder}: {listed} not read")
    return read


def apply_operations(classes: Sequence[SourceClass], operations: Sequence[Operation], prefix: str) -> list[SourceClass]:
    """Apply the operations in the given order, then put the prefix before each token name.

    Raises:
        TokenError: a class is unknown, listed twice, or in several files; a resulting name is not safe.
    """
    current = list(classes)
    for kind, values in operations:
        if kind == "labels":
            if len(values) != len(current):
                found = f"{len(current)} classes ({_labels(current)}) and {len(values)} labels"
                raise TokenError(f"{found}; give one label per class")
            current = [_renamed(one, label) for one, label in zip(current, values, strict=True)]
            continue
        pairs = [
            (_find(current, value), "") if kind == "select" else _parse_renaming(current, value) for value in values
        ]
        labels = dict(pairs)
        if len(labels) < len(pairs):
            raise TokenError(f"a class is listed twice: {', '.join(values)}")
        if kind == "select":
            current = [current[index] for index in labels]
        else:
            current = [_renamed(one, labels[index]) if index in labels else one for index, one in enumerate(current)]
    return [replace(one, tokens=replace(one.tokens, names=(prefix + one.name,))) for one in current]


def refuse_twins(classes: Sequence[SourceClass]) -> None:
    """Raise a ``TokenError`` if classes share a token name; it lists all of them and says how to rename one."""
    by_name: dict[str, list[SourceClass]] = {}
    for one in classes:
        by_name.setdefault(normal_form(one.name), []).append(one)
    shared = [members for members in by_name.values() if len(members) > 1]
    for first, second, *_ in shared:
        if (first.path.absolute(), first.original) == (second.path.absolute(), second.original):
            raise TokenError(f"{first.path} is given twice; give it once")
    if shared:
        listed = "; ".join(f"{members[0].name!r}: {_listed(members, classes)}" for members in shared)
        example = _address(shared[0][1], classes)
        remedy = f"rename all but one, as in --rename {example!r}=NEW, or --select those you want"
        raise TokenError(f"classes share a token name ({listed}); {remedy}")


def group(classes: Sequence[SourceClass]) -> dict[str, list[SourceClass]]:
    """Group the classes that can be in one set, in the order read.

    A group is named by its text encoders and number of vectors, as in ``clip_l-4``; a number follows if groups differ in
    widths, pooling or templates.
    """
    found, kinds = dict[str, list[SourceClass]](), dict[object, str]()
    for one in classes:
        tokens = one.tokens
        shapes = tuple(sorted((name, *v.shape[1:]) for name, v in tokens.vectors.items()))
        kind = (shapes, tokens.pooling, tokens.templates)
        if kind not in kinds:
            name = "-".join((*(shape[0] for shape in shapes), str(tokens.vectors_per_token)))
            like = sum(known == name or known.startswith(f"{name}-") for known in found)
            kinds[kind] = f"{name}-{like + 1}" if like else name
        found.setdefault(kinds[kind], []).append(one)
    return found


def _find(classes: Sequence[SourceClass], reference: str) -> int:
    """The single class that a label, a token name or ``FILE:LABEL`` refers to."""
    found = _find_all(classes, reference)
    if not found:
        raise TokenError(f"there is no class {reference!r} here; there are: {_labels(classes)}")
    if len(found) > 1:
        addresses = _listed([classes[index] for index in found], classes)
        raise TokenError(f"there are {len(found)} classes {reference!r}; say which: {addresses}")
    return found[0]


def _find_all(classes: Sequence[SourceClass], reference: str) -> list[int]:
    found = find_classes(reference, [one.label for one in classes], [one.name for one in classes])
    for at, character in enumerate(reference):
        if found:
            break
        file, label = normal_form(reference[:at]), reference[at + 1 :]
        if character == ":":
            of_file = [i for i, one in enumerate(classes) if file in map(normal_form, (str(one.path), one.path.name))]
            originals = [classes[index].original for index in of_file]
            found = [of_file[index] for index in find_classes(label, originals, safe_names(originals))]
    return found


def _address(one: SourceClass, classes: Sequence[SourceClass]) -> str:
    """``FILE:LABEL``, with the file's full path if its name is ambiguous."""
    paths = {other.path for other in classes if normal_form(other.path.name) == normal_form(one.path.name)}
    return f"{one.path.name if len(paths) == 1 else one.path}:{one.original}"


def _listed(some: Sequence[SourceClass], classes: Sequence[SourceClass]) -> str:
    return " and ".join(repr(_address(one, classes)) for one in some)


def _parse_renaming(classes: Sequence[SourceClass], text: str) -> tuple[int, str]:
    """Index of the class OLD, and its new label, from ``OLD=NEW``.

    Both may contain a ``=``: OLD is the longest prefix that is a label or, if none is, that refers to a class in another way.
    """
    places = [at for at, character in enumerate(text) if character == "=" and text[:at] and text[at + 1 :]]
    if not places:
        raise TokenError(f"a new label is written OLD=NEW, got {text!r}")
    known = {one.label for one in classes}
    exact, found = (at for at in places if text[:at] in known), (at for at in places if _find_all(classes, text[:at]))
    end = max(exact, default=0) or max(found, default=places[0])
    return _find(classes, text[:end]), text[end + 1 :]


def _renamed(one: SourceClass, label: str) -> SourceClass:
    return replace(one, tokens=rename(one.tokens, {one.label: label}))


def _labels(classes: Sequence[SourceClass]) -> str:
    return ", ".join(one.label for one in classes)
