"""Label tables: reading gives back what was written, no cell is a formula, and corrections change the examples."""

import csv
import io
import os
import time
import tracemalloc
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mcti_core.data import label_table
from mcti_core.data.dataset import FewShotDataset
from mcti_core.data.label_table import csv_lines, read_corrections, relabelled
from mcti_core.errors import ExamplesError, FileError, TokenError

PATHS = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=9)


LABELS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9)


@given(st.dictionaries(PATHS.map(lambda name: f"/in/{name}"), LABELS.filter(lambda x: x == x.strip())))
def test_corrections_round_trip(tmp_path_factory, wanted):
    path = tmp_path_factory.getbasetemp() / "corrections.csv"
    path.write_bytes(csv_lines([("image", "label"), *wanted.items()]).encode())
    assert read_corrections(path) == {os.path.abspath(image): label for image, label in wanted.items()}


@given(st.lists(st.lists(st.one_of(st.text(), st.sampled_from(["=1+1", "+1", "-1", "@x", "\t=1", "'=1"])), min_size=1)))
def test_no_cell_begins_as_a_formula(rows):
    for row in csv.reader(io.StringIO(csv_lines(rows), newline="")):
        assert not any(cell.startswith(("=", "+", "-", "@", "\t", "\r")) for cell in row)


def test_nul_is_escaped():
    assert csv_lines([("a\0b", "\0")]) == "a\\x00b,\\x00\r\n"


def test_path_that_is_not_utf8_round_trips(tmp_path):
    image = tmp_path / os.fsdecode(b"caf\xe9.png")
    image.write_bytes(b"")
    table = tmp_path / "t.csv"
    table.write_bytes(csv_lines([("image", "label"), (str(image), "x")]).encode())
    assert read_corrections(table) == {str(image): "x"}


def test_tables_of_spreadsheets_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("t.csv").write_bytes("\ufeffnote;image;label\r\nx;a.png;cat\r\n;b.png;(unknown)\r\n;a.png;dog\r\n".encode())
    assert read_corrections(Path("t.csv")) == {str(tmp_path / "a.png"): "dog", str(tmp_path / "b.png"): ""}


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"image,label\nx.png\n", b"\xff\xfe\x00", b"image,label\n,x\n", b'image,label\n"a,x\n' + b"y" * 200_000])  # fmt: skip
def test_other_files_are_refused_in_a_sentence(tmp_path, content):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(FileError, match=r"t\.csv"):
        read_corrections(tmp_path / "t.csv")
    with pytest.raises(FileError, match="cannot be read"):
        read_corrections(tmp_path / "missing.csv")


def test_corrections_change_add_and_leave_out(tmp_path):
    images = tuple(tmp_path / name for name in ("a0", "a1", "b0", "b1"))
    dataset = FewShotDataset(("a", "b"), images, torch.tensor([0, 0, 1, 1]))
    (tmp_path / "new").write_bytes(b"")
    wanted = {str(images[1]): "b", str(images[2]): "", str(images[3]): "c", str(tmp_path / "new"): "A"}
    found = relabelled(dataset, wanted)
    pairs = [(image.name, found.classes[label]) for image, label in zip(found.images, found.labels, strict=True)]
    assert pairs == [("a0", "a"), ("a1", "b"), ("b1", "c"), ("new", "a")]
    assert relabelled(dataset, {}).images == dataset.images


def test_corrections_that_empty_a_class_take_it_away(tmp_path):
    images = tuple(tmp_path / name for name in ("a0", "b0", "c0"))
    dataset = FewShotDataset(("a", "b", "c"), images, torch.arange(3))
    found = relabelled(dataset, {str(images[0]): "b"})
    assert (found.classes, found.labels.tolist()) == (("b", "c"), [0, 0, 1])
    with pytest.raises(ExamplesError, match="is not there"):
        relabelled(dataset, {str(tmp_path / "nothing"): "a"})


@pytest.mark.parametrize(
    "content", [f"image,label,{','.join(map(str, range(20_000)))}\n" + "a,b\n" * 50, "image,label\n" + "a,\n" * 60_000]
)
def test_rows_take_no_more_memory_than_their_file(tmp_path, monkeypatch, content):
    """A row of a few bytes held the memory of all columns, which is the square of the file."""
    monkeypatch.setattr(label_table, "_MAX_BYTES", 2**20)  # as much is asked for at once
    (tmp_path / "x.csv").write_text(content)
    tracemalloc.start()
    try:
        assert len(read_corrections(tmp_path / "x.csv")) == 1
        assert tracemalloc.get_traced_memory()[1] < 6 * 2**20
    finally:
        tracemalloc.stop()


def test_very_many_new_labels_are_refused_before_the_square_of_their_time(monkeypatch):
    monkeypatch.setattr(os.path, "isfile", lambda path: True)
    dataset = FewShotDataset(("a", "b"), (torch.zeros(3, 1, 1),) * 2, torch.tensor([0, 1]))
    corrections = {f"/{number}.png": f"label {number}" for number in range(5000)}
    started = time.process_time()
    with pytest.raises(TokenError, match="at most 4,096"):
        relabelled(dataset, corrections)
    assert time.process_time() - started < 2  # it was 14


@pytest.mark.parametrize("sign", ["\n=", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
def test_formulas_of_full_width_or_after_a_line_end_are_texts(tmp_path, sign):
    text = csv_lines([("image", "label"), ("/a.png", f"{sign}1")])
    assert [row[1][0] for row in csv.reader(io.StringIO(text, newline=""))][1] == "'"
    (tmp_path / "t.csv").write_bytes(text.encode())
    assert read_corrections(tmp_path / "t.csv") == {"/a.png": f"{sign}1".strip()}
