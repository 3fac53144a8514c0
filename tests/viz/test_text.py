import os
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from mcti_core.viz import text as lettering
from mcti_core.viz.text import draw_text, text_width, truncate

SIZE = 20


def _ink(text, anchor="lm"):
    """(200, 400) darkness of a text at the middle of a sheet."""
    sheet = Image.new("RGB", (400, 200), "white")
    draw_text(ImageDraw.Draw(sheet), (200, 100), text, SIZE, "black", anchor)
    return _darkness(sheet)


def _darkness(sheet):
    return 255 - np.asarray(sheet.convert("L")).astype(int)


def _box(ink):
    rows, columns = np.nonzero(ink > 60)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_the_anchor_is_where_the_text_is():
    width = text_width("Handle", SIZE)
    for anchor, start in (("lm", 200), ("mm", 200 - width / 2), ("rm", 200 - width)):
        left, top, right, bottom = _box(_ink("Handle", anchor))
        assert left == pytest.approx(start, abs=3)
        assert right == pytest.approx(start + width, abs=3)
        assert top < 100 < bottom


@pytest.mark.parametrize("text", ["a long name of a thing", "y" * 300, "x"])
@pytest.mark.parametrize("width", [30, 90, 4000])
def test_fitted_text_fits_and_is_as_long_as_can_be(text, width):
    shown = truncate(text, SIZE, width)
    assert text_width(shown, SIZE) <= width
    if shown == text:
        return
    start = shown.removesuffix("…")
    assert start != shown
    assert text.startswith(start)
    assert text_width(text[: len(start) + 2] + "…", SIZE) > width  # two: a space may have been left out


def test_every_text_is_one_line():
    assert truncate(" a\n b\tc ", SIZE, 1000) == "a b c"
    assert np.array_equal(_ink("a\nb"), _ink("a b"))


@settings(deadline=None, max_examples=60)
@given(st.text(st.characters(exclude_categories=[]), max_size=30))
def test_any_text_can_be_written(text):
    assert 1 <= text_width(truncate(text, SIZE, 100), SIZE) <= 100
    _ink(text)


@pytest.mark.parametrize("text", ["é", "Löwe", "Ωμέγα", "Кот"])
def test_letters_come_from_a_font_that_has_them(text):
    if not lettering._installed():
        pytest.skip("this system has no font for them")
    boxes = {
        _ink(lettering._UNSUPPORTED_LETTER)[:, 200:].tobytes(),
        _ink(lettering._UNSUPPORTED_LETTER * len(text))[:, 200:].tobytes(),
    }
    assert not {_ink(letter)[:, 200:].tobytes() for letter in (*text, text)} & boxes
    assert len({_ink(letter).tobytes() for letter in text}) == len(set(text))  # no two of them alike


def test_plain_letters_come_from_the_font_that_is_always_there():
    assert lettering._best_font("Class 12, 36% <1% a_b …") is None


def test_where_no_font_has_a_letter_boxes_are_drawn(monkeypatch):
    monkeypatch.setattr(lettering, "_installed", tuple)
    lettering._best_font.cache_clear()
    try:
        assert _ink("猫").sum() > 0
    finally:
        lettering._best_font.cache_clear()


def test_fitted_takes_no_time_for_a_label_of_very_many_letters():
    begun = time.process_time()
    assert truncate("".join(map(chr, range(0x4E00, 0x4E00 + 1000))), 11, 200).endswith("…")
    assert time.process_time() - begun < 2


@pytest.mark.parametrize("kind", ["pipe", "garbage", "link", "folder"])
def test_fonts_in_the_current_folder_are_not_opened(tmp_path, monkeypatch, kind):
    known = lettering._installed()
    for name in lettering._FONT_FILES:
        place = tmp_path / name
        if kind == "pipe":
            os.mkfifo(place)  # opening it would wait for ever
        elif kind == "folder":
            place.mkdir()
        elif kind == "link":
            place.symlink_to("/dev/zero")
        else:
            place.write_bytes(b"no font")
    monkeypatch.chdir(tmp_path)
    opened = []
    monkeypatch.setattr(lettering.ImageFont.core, "getfont", recorded(lettering.ImageFont.core.getfont, opened))
    for cached in (lettering._open_font, lettering._best_font, lettering._installed):
        cached.cache_clear()
    assert lettering._installed() == known
    assert text_width("é", SIZE) > 1
    assert all(os.path.isabs(path) and not path.startswith(str(tmp_path)) for path in opened)


def recorded(function, calls):
    def call(font, *others, **more):
        calls.extend([os.fspath(font)] if isinstance(font, str | os.PathLike) and font else [])
        return function(font, *others, **more)

    return call
