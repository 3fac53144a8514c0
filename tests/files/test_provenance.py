"""A file counts as ours only if our mark is in its place."""

import json

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mcti_core.errors import FileError
from mcti_core.files.provenance import GENERATOR, is_marked, write_json, write_png, write_text

PAGE = f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n{GENERATOR}\n<title>x</title>'


def picture(path, text, mode="RGB"):
    info = PngInfo()
    for key, value in text.items():
        info.add_text(key, value)
    Image.new(mode, (4, 4)).save(path, "PNG", pnginfo=info)
    return path


@pytest.mark.parametrize("mode", ["RGB", "P", "L", "RGBA"])
def test_is_marked_of_what_is_written_here_is_true(mode, tmp_path):
    image = Image.new(mode, (4, 4))
    image.info["dpi"] = (72, 72)
    for path in (
        write_png(image, tmp_path / "x.png"),
        write_json({"a": 1}, tmp_path / "x.json"),
        write_json({}, tmp_path / "y.json"),
        write_text(PAGE, tmp_path / "x.html"),
    ):
        assert is_marked(path)


@pytest.mark.parametrize(
    "theirs",
    [
        json.dumps({"note": 'they put "written_by": "MC-TI" first'}),
        '{"about": {"written_by": "MC-TI"}}',
        '["written_by", {"written_by": "MC-TI"}]',
        f"<p>MC-TI writes {GENERATOR}</p>",
        f"<!doctype html>\n<html><head><title>x</title></head><body>{GENERATOR}",
        "a note: Software\0MC-TI",
    ],
)
def test_is_marked_of_a_file_that_quotes_the_mark_is_false(theirs, tmp_path):
    path = tmp_path / "x"
    path.write_text(theirs)
    assert not is_marked(path)
    with pytest.raises(FileError, match="not written by MC-TI"):
        write_text(PAGE, path)
    assert path.read_text() == theirs


def test_is_marked_of_a_picture_that_quotes_the_mark_in_another_text_is_false(tmp_path):
    assert not is_marked(
        picture(tmp_path / "x.png", {"Comment": "Software\0MC-TI".replace("\0", " "), "Software": "MC-TI 2"})
    )
    assert not is_marked(picture(tmp_path / "y.png", {"workflow": '{"written_by": "MC-TI"}' + GENERATOR}))
    content = bytearray(picture(tmp_path / "z.png", {"Comment": "Software-MC-TI"}).read_bytes())
    content[content.index(b"Software-MC-TI") + 8] = 0
    (tmp_path / "z.png").write_bytes(content)
    assert not is_marked(tmp_path / "z.png")
