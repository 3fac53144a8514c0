"""Passes over a JPEG's pixels are counted without decoding."""

import io
import time

import pytest
from PIL import Image

from mcti_core.images.claims import count_scans

SCAN = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"


def photo(**options):
    file = io.BytesIO()
    Image.linear_gradient("L").convert("RGB").save(file, "JPEG", **options)
    return file.getvalue()


def counted(content, most=1000):
    return count_scans(io.BytesIO(content), most)


def segment(marker, content):
    return b"\xff" + bytes([marker]) + (len(content) + 2).to_bytes(2, "big") + content


def test_scans_of_photos_are_counted():
    assert counted(photo()) == 1
    assert 5 < counted(photo(progressive=True)) < 20


@pytest.mark.parametrize("extra", [1, 50, 199])
def test_added_scans_are_counted_up_to_the_limit(extra):
    content = photo()[:-2] + (SCAN + b"\x12" * 30) * extra + b"\xff\xd9"
    assert counted(content) == 1 + extra
    assert counted(content, most=10) == min(11, 1 + extra)


@pytest.mark.parametrize("content", [b"\xff\xda" * 20_000, photo()[:60_000], b"\xff"])
def test_what_is_in_a_segment_is_no_scan(content):
    plain = photo(progressive=True)
    assert counted(plain[:2] + segment(0xE1, content) + plain[2:]) == counted(plain)


def test_what_phones_append_is_no_scan():
    assert counted(photo() + photo(progressive=True) + b"\xff\xda" * 1000) == 1


@pytest.mark.parametrize("fill", [2**20 - 3, 2**20 - 2, 2**20 - 1, 2**20, 2**20 + 1])
def test_markers_between_two_blocks_are_seen(fill):
    """A block ends within a marker or the length behind it."""
    content = b"\xff\xd8" + SCAN
    assert counted(content + b"\0" * (fill - len(content)) + SCAN + b"\0\0\xff\xd9") == 2


def test_very_many_segments_are_not_followed():
    begun = time.process_time()
    assert counted(b"\xff\xd8" + b"\xff\xc4\0\2" * 2_000_000, most=64) == 65
    assert time.process_time() - begun < 1


@pytest.mark.parametrize("content", [b"", b"\xff", b"\xff\xd8", b"\xff\xd8\xff\xda", b"\xff\xd8\xff\xda\0"])
def test_file_that_is_cut_short_has_no_scan(content):
    assert counted(content) == 0


def test_only_the_jpeg_at_a_place_is_counted():
    first, second = photo(), photo()[:-2] + SCAN * 30 + b"\xff\xd9"
    both = io.BytesIO(b"before" + first + second)
    places = [(6, len(first)), (6 + len(first), len(second))]
    assert [count_scans(both, 1000, *place) for place in places] == [1, 31]
    assert count_scans(both, 10, *places[1]) == 11
