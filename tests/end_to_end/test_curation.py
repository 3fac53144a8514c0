"""``mcti classify`` sorts, writes captions and review pages; ``mcti undo`` moves files back; corrections are read from CSV."""

import csv
import html
import json
import re
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mcti_core.cli.review_page import Item, write_review
from mcti_core.data.label_table import csv_lines
from mcti_core.pocket import load_pocket
from mcti_core.tokens.io import load_tokens, save_tokens
from mcti_core.training.initial import new_tokens

from .command_line import run
from .kill_and_resume import write_examples

SORT_AGAIN = "classify sorted --recursive --tokens tokens.safetensors --move-to sorted"


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """Tokens of two classes, and six images in ``inbox/``, one of which cannot be read."""
    folder = tmp_path_factory.mktemp("curation")
    some = sorted(write_examples(folder / "examples").glob("*/*.png"))
    (folder / "inbox").mkdir()
    for number, image in enumerate(some[:: len(some) // 5][:5]):
        shutil.copy(image, folder / "inbox" / f"{number}.png")
    (folder / "inbox" / "5.png").write_bytes(b"no image")
    tokens = new_tokens(load_pocket(), ("../up", "old cup"), initializer_token="random", seed=1)
    save_tokens(tokens, folder / "tokens")
    return folder


@pytest.fixture
def there(material, tmp_path, monkeypatch):
    monkeypatch.chdir(shutil.copytree(material, tmp_path / "there"))
    return Path()


def classify(options: str = "", *words: object) -> int:
    return run(f"classify inbox --tokens tokens.safetensors {options}", *words)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def answers(capsys) -> dict[str, str]:
    """Image -> label, as printed."""
    assert classify() == 1
    return dict(line.split("\t")[:2] for line in capsys.readouterr().out.splitlines())


def test_classify_moves_by_answer_inside_the_folder_and_undo_restores(there, capsys):
    found, before = answers(capsys), contents(there)
    assert classify("--move-to sorted --caption", "a photo of {token}, {label}") == 1
    moved = {str(path.relative_to("sorted")) for path in Path("sorted").rglob("*.png")}
    folder = {"../up": "up", "old cup": "old cup"}
    assert moved == {f"{folder[label]}/{Path(image).name}" for image, label in found.items()}
    name, label = next((Path(image), label) for image, label in found.items())
    text = (Path("sorted") / folder[label] / name.name).with_suffix(".txt").read_text(encoding="utf-8")
    assert text == {"../up": "a photo of up, ../up", "old cup": "a photo of old-cup, old cup"}[label]
    assert sorted(contents(Path("inbox"))) == ["5.png"]
    assert "mcti undo sorted/undo-1.json" in capsys.readouterr().out
    assert run("undo sorted/undo-1.json") == 0
    assert contents(there) == before


def test_image_given_in_several_spellings_is_moved_once(there, capsys):
    before = contents(there)
    (there / "link").symlink_to("inbox")
    again = f"{Path('inbox/0.png').absolute()} inbox/../inbox/0.png ./link/1.png inbox/0.png"
    line = f"classify {again} inbox --tokens tokens.safetensors"
    assert run(f"{line} --move-to sorted --caption {{label}} --review r.html") == 1
    assert "5 images moved" in capsys.readouterr().out
    assert len(list(Path("sorted").rglob("*.png"))) == 5
    assert run("undo sorted/undo-1.json") == 0
    Path("r.html").unlink()
    (there / "link").unlink()
    assert contents(there) == before


@pytest.mark.parametrize("label", ["\ud800", "a\udce9b", "\udfff \ud800"])
def test_caption_of_a_label_with_half_a_character_is_an_escape(there, label):
    tokens = load_tokens("tokens.safetensors")
    save_tokens(replace(tokens, labels=(label, label + "x")), "tokens.safetensors")
    before = contents(there)
    assert classify("--move-to sorted --caption {label}") == 1
    texts = {path.read_text(encoding="utf-8") for path in Path("sorted").rglob("*.txt")}
    assert texts <= {ascii(label)[1:-1], ascii(label)[1:-1] + "x"}
    assert texts
    assert run("undo sorted/undo-1.json") == 0
    assert contents(there) == before


def test_classify_below_the_threshold_leaves_images_where_they_are(there):
    before = contents(there)
    assert classify("--copy-to sorted --threshold 1") == 1
    assert contents(there) == before


def test_corrections_count_in_place_of_answers(there):
    table = [("image", "label"), (str(Path("inbox/0.png").absolute()), "new/thing"), ("inbox/1.png", "(unknown)")]
    Path("c.csv").write_text(csv_lines(table), encoding="utf-8")
    assert classify("--copy-to sorted --corrections c.csv") == 1
    assert Path("sorted/new-thing/0.png").is_file()
    assert not list(Path("sorted").rglob("1.png"))
    before = contents(there)  # what is in its folder already stays there
    Path("d.csv").write_text(csv_lines([("image", "label"), ("sorted/new-thing/0.png", "new/thing")]), encoding="utf-8")
    assert run(f"{SORT_AGAIN} --corrections d.csv") == 0
    assert contents(there).keys() == {*before, "d.csv"}


def test_captions_that_are_there_stay(there, capsys):
    Path("inbox/0.txt").write_text("mine")
    assert classify("--caption {label}") == 1
    assert Path("inbox/0.txt").read_text() == "mine"
    assert sorted(path.name for path in Path("inbox").glob("*.txt")) == [f"{number}.txt" for number in range(5)]
    assert "4 captions written; 1 were there already" in capsys.readouterr().out


def test_images_that_are_sorted_already_get_captions_too_and_undo_removes_them(there, capsys):
    assert classify("--move-to sorted") == 1
    shutil.move("inbox", "unreadable")
    again = f"{SORT_AGAIN} --caption {{label}} --corrections c.csv"
    wrong = next(Path("sorted").glob("*/*.png"))
    Path("c.csv").write_text(f"image,label\n{wrong},brand new\n", encoding="utf-8")
    assert run(again) == 0
    assert len(list(Path("sorted").glob("*/*.txt"))) == 5
    assert Path("sorted/brand new", wrong.name).with_suffix(".txt").read_text() == "brand new"
    assert run(again) == 0  # nothing is left to do, but the classifier's answer moves one image back
    assert run("undo sorted/undo-3.json") == run("undo sorted/undo-2.json") == 0
    assert not list(Path("sorted").glob("*/*.txt"))


def test_overwrite_replaces_complete_answers(there, capsys):
    assert classify("--output a.jsonl") == 1
    capsys.readouterr()
    assert classify("--output a.jsonl") == 1
    assert "a.jsonl already exists and is complete; replace it with --overwrite" in capsys.readouterr().err
    assert classify("--output a.jsonl --overwrite") == 1
    assert "6 answers" in capsys.readouterr().out


def test_out_csv_writes_the_table_beside_the_answers(there):
    assert classify("--output a.csv --top 2") == 1
    records = [json.loads(line) for line in Path("a.jsonl").read_text(encoding="utf-8").splitlines()]
    with open("a.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image"] for row in rows] == [record["image"] for record in records]
    for row, record in zip(rows[:-1], records[:-1], strict=True):
        assert (row["label"], float(row["confidence"])) == (record["label"], record["confidence"])
        assert (row["label_2"], float(row["confidence_2"])) == tuple(record["top"][1].values())
    assert "5.png" in rows[-1]["error"]
    Path("a.jsonl").unlink()
    Path("a.csv").write_text("somebody's,table\n")
    assert classify("--output a.csv") == 1
    assert Path("a.csv").read_text() == "somebody's,table\n"


def test_review_page_shows_every_answer_and_the_nearest_examples(there, capsys):
    found = answers(capsys)
    assert classify("--review r.html --examples examples") == 1
    page = Path("r.html").read_text(encoding="utf-8")
    shown = re.findall(r'<figure data-image="([^"]+)">.*?value="([^"]*)">', page, re.S)
    answered = {str(Path(image).absolute()): label for image, label in found.items()}
    assert {html.unescape(image): html.unescape(label) for image, label in shown} == answered
    assert page.count("data:image/jpeg;base64,") == 5 * (1 + 3)
    assert classify("--review r.html") == 1  # kept without --overwrite
    assert Path("r.html").read_text(encoding="utf-8") == page
    assert classify("--review r.html --overwrite") == 1
    assert Path("r.html").read_text(encoding="utf-8") != page


def test_review_of_unreadable_images_is_an_empty_page(there):
    assert run("classify inbox/5.png --tokens tokens.safetensors --review r.html --examples examples") == 1
    assert "0 images to review" in Path("r.html").read_text(encoding="utf-8")


HOSTILE = '"><script>alert(1)</script>\n<!--'


def test_review_page_escapes_everything(tmp_path):
    items = [Item(f"/in/{HOSTILE}\r.png", HOSTILE, HOSTILE), Item("/in/\udce9.png", "</datalist>", "")]
    write_review(items, [HOSTILE], tmp_path / "r.html", HOSTILE)
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert page.count("<script>") == page.count("</script>") == page.count("</datalist>") == 1
    assert "alert(1)</script>" not in page
    assert not re.search(r"(src|href)=.?https?:", page)
    images = [html.unescape(found) for found in re.findall(r'data-image="([^"]*)"', page)]
    assert images == [items[0].image, "/in/\\udce9.png"]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("--examples examples", "--examples goes with --review"),
        ("--corrections inbox/0.png", "--corrections goes with --copy-to"),
        ("--move-to a --copy-to b", "not allowed with argument"),
        ("--caption photo", "must contain {label} or {token}"),
        ("--corrections missing.csv --copy-to x", "missing.csv cannot be read as CSV"),
        ("--review inbox", "is a folder; name a file"),
    ],
)
def test_curation_options_that_cannot_be_meant_get_a_sentence(there, capsys, line, sentence):
    before = contents(there)
    with suppress(SystemExit):
        assert classify(line) == 1
    assert sentence in capsys.readouterr().err
    assert contents(there) == before


QUICK = "--steps 2 --batch-size 2 --classification-only-steps 0"


@pytest.fixture(scope="module")
def learned(material):
    out = material / "learned"
    assert run(f"train {material / 'examples'} --output-dir {out} --num-vectors 2 {QUICK} --template", "a {}") == 0
    return out


def test_train_with_corrections_and_start_from_continues_the_set(learned, there):
    before = load_tokens(learned / "tokens.safetensors")
    save_tokens(replace(before, names=tuple(f"my-{name}" for name in before.names)), "old.safetensors")
    moved, left = sorted(Path("examples", before.labels[0]).iterdir())[:2]
    rows = [("image", "label"), (moved, before.labels[1]), (left, "(unknown)"), ("inbox/0.png", "brand new")]
    Path("c.csv").write_text(csv_lines([[str(cell) for cell in row] for row in rows]), encoding="utf-8")
    line = f"train examples --output-dir out --start-from old.safetensors --corrections c.csv {QUICK}"
    assert run(f"{line} --lr 1e-9") == 0
    after = load_tokens("out/tokens.safetensors")
    assert after.labels == (*before.labels, "brand new")
    assert after.names == (*(f"my-{name}" for name in before.names), "brand-new")
    assert (after.templates, after.vectors_per_token) == (("a {}",), 2)
    for name, vectors in before.vectors.items():
        assert torch.allclose(after.vectors[name][: len(before)], vectors, atol=1e-6)
    counts = [int((s.support.labels == index).sum()) for s in (before, after) for index in range(len(s))]
    first, second, *others = counts[: len(before)]
    assert counts[len(before) :] == [first - 2, second + 1, *others, 1]


def test_corrections_of_an_image_that_was_sorted_since_say_how_to_go_on(learned, there, capsys):
    Path("c.csv").write_text("image,label\ninbox/0.png,old cup\n", encoding="utf-8")
    assert classify("--corrections c.csv --move-to sorted") == 1  # of the image that cannot be read
    line = f"train examples --corrections c.csv --start-from {learned} {QUICK} --output-dir out"
    assert run(line) == 1
    assert "put it back with mcti undo" in capsys.readouterr().err
    assert run("undo sorted/undo-1.json") == 0
    assert run(line) == 0


def test_start_from_a_set_with_other_classes_says_which_are_lacking(learned, there, capsys):
    gone = sorted(path.name for path in Path("examples").iterdir())[0]
    shutil.rmtree(Path("examples", gone))
    assert run(f"train examples --output-dir out --start-from {learned} {QUICK}") == 0
    assert f"there are no examples of {gone}: the new tokens lack these classes" in capsys.readouterr().err


def test_add_replace_learns_only_the_given_classes_again(learned, there, capsys):
    before = load_tokens(learned / "tokens.safetensors")
    for label in (before.labels[0], "zebra"):
        shutil.copytree(Path("examples", before.labels[1]), Path("more", label))
    assert run(f"add more --tokens {learned} --output-dir larger {QUICK} --replace") == 0
    after = load_tokens("larger/tokens.safetensors")
    assert after.labels == (*before.labels, "zebra")
    assert after.names[: len(before)] == before.names
    for name, vectors in before.vectors.items():
        assert torch.equal(after.vectors[name][1 : len(before)], vectors[1:])
        assert not torch.equal(after.vectors[name][0], vectors[0])
    own, other = (set(map(tuple, s.support.features[s.support.labels == 0].tolist())) for s in (before, after))
    assert not own & other
    shutil.rmtree("more")
    shutil.copytree("examples", "more")
    assert run(f"add more --tokens {learned} --output-dir y {QUICK} --replace") == 1
    assert "use mcti train instead" in capsys.readouterr().err
