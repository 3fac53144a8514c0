"""Image files whose claims make a reader loop or allocate memory."""

import io
import struct
import time
import zlib

import pytest
from PIL import Image

from mcti_core.images import limited_readers, reading
from mcti_core.images.claims import count_scans
from mcti_core.images.limited_readers import MeteredFile
from mcti_core.images.reading import UnreadableError, load_image

MANY = 150_000
"""Enough to be refused with the limits of these tests; a real file has a hundred million."""


def chunk(name, content=b""):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(before=b"", inside=b"", after=b""):
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    return head + before + inside + chunk(b"IDAT", zlib.compress(b"\0" * 25 * 8)) + after + chunk(b"IEND")


def saved(kind, folder):
    Image.new("P" if kind == "GIF" else "RGB", (8, 8)).save(folder / "plain", kind)
    return (folder / "plain").read_bytes()


def gif(blocks, folder):
    content = saved("GIF", folder)
    at = content.index(b",")
    return content[:at] + blocks + content[at:]


def tiff(changes, stored=b"", order="<"):
    """8 x 8 pixels with other tags: tag -> (type, count, value)."""
    tags = {256: (4, 1, 8), 257: (4, 1, 8), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 277: (3, 1, 1), 278: (4, 1, 8), 273: (4, 1, 8), 279: (4, 1, 64)}  # fmt: skip
    tags |= changes
    entries = b"".join(
        struct.pack(f"{order}HHL", tag, kind, count) + (struct.pack(f"{order}H2x" if kind == 3 else f"{order}L", value))
        for tag, (kind, count, value) in sorted(tags.items())
    )
    head = b"II*\0" if order == "<" else b"MM\0*"
    return (
        head + struct.pack(f"{order}LH", 8, len(tags)) + entries + b"\0" * 4 + stored.ljust(4096, b"\0")
    )  # what offsets lead to


def refused(path, seconds=5):
    begun = time.process_time()
    with pytest.raises(UnreadableError) as caught:
        load_image(path)
    assert time.process_time() - begun < seconds
    return caught.value.reason


@pytest.mark.parametrize(
    "content",
    [
        lambda folder: png(before=chunk(b"prVt") * MANY),
        lambda folder: png(inside=chunk(b"IDAT") * MANY),
        lambda folder: png(after=chunk(b"prVt") * MANY),
        lambda folder: png(before=chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(1_000_000), 9)) * 1500),
        lambda folder: png(before=chunk(b"prVt", bytes(2**24 + 2**17))),
        lambda folder: png(after=chunk(b"prVt", bytes(2**24 + 2**17))),
        lambda folder: gif(b"!\xfe\x01a\0" * MANY, folder),
        lambda folder: gif(b"!\x01\x01a\0" * MANY, folder),
        lambda folder: saved("JPEG", folder)[:2] + b"\xff" * MANY + saved("JPEG", folder)[2:],
        lambda folder: saved("JPEG", folder)[:2] + b"\xff\xe5\0\2" * MANY + saved("JPEG", folder)[2:],
    ],
    ids=["chunks", "empty data", "chunks behind", "packed", "large chunk", "large chunk behind", "comments", "extensions", "fill", "segments"],
)  # fmt: skip
def test_blocks_without_end_are_refused(content, tmp_path, monkeypatch):
    monkeypatch.setattr(limited_readers, "MAX_IMAGE_READS", 200_000)
    (tmp_path / "x").write_bytes(content(tmp_path))
    assert "too many or too large" in refused(tmp_path / "x")


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({273: (4, 2**18 + 1, 8)}, "tag 273 has 262,145 values"),
        ({282: (5, 2**18 + 1, 8)}, "tag 282 has 262,145 values"),
        ({322: (4, 1, 23168), 323: (4, 1, 23168), 324: (4, 1, 8), 259: (3, 1, 8)}, "larger than the image"),
        ({322: (3, 1, 65535), 323: (3, 1, 65535), 324: (4, 1, 8)}, "larger than the image"),
        ({322: (16, 1, 200), 323: (16, 1, 200)}, "is not an integer"),
    ],
)
def test_tiff_that_says_more_than_images_hold_is_refused(changes, reason, order, tmp_path):
    (tmp_path / "x").write_bytes(tiff(changes, order=order))
    assert reason in refused(tmp_path / "x")


@pytest.mark.parametrize("order", ["<", ">"])
def test_tiff_of_few_tags_is_read(order, tmp_path):
    (tmp_path / "x").write_bytes(tiff({}, order=order))
    assert load_image(tmp_path / "x").shape == (3, 8, 8)


def jpeg(scans):
    """8 x 8 pixels, whose last pass is there again and again."""
    file = io.BytesIO()
    Image.new("L", (8, 8), 128).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last * (scans - count_scans(file, 1000)) + b"\xff\xd9"


def tiff_of_jpegs(stored, places):
    """Strips of eight rows, one below the other; as many as there are places (offset in what is stored, bytes)."""
    count, behind = len(places), 8 + 2 + 9 * 12 + 4
    lists = b"".join(struct.pack(f"<{count}L", *column) for column in zip(*((at + behind + 8 * count, size) for at, size in places), strict=True))  # fmt: skip
    many = {273: (4, count, behind), 279: (4, count, behind + 4 * count)}
    return tiff({257: (4, 1, 8 * count), 259: (3, 1, 7), 262: (3, 1, 1), **many}, lists + stored)


@pytest.mark.parametrize("scans", [40, 70, 90])
def test_tiff_of_jpegs_is_held_against_the_limits_of_a_jpeg(scans, tmp_path, monkeypatch):
    """One JPEG in place of every strip: 60 MB took 47 s."""
    monkeypatch.setattr(reading, "MAX_SCANNED_PIXELS", 48 * 64 * 30)
    content = jpeg(scans)
    (tmp_path / "x").write_bytes(tiff_of_jpegs(content, [(0, len(content))] * 48))
    assert "more than 30 passes" in refused(tmp_path / "x")
    (tmp_path / "x").write_bytes(tiff_of_jpegs(jpeg(12), [(0, len(jpeg(12)))] * 48))
    assert load_image(tmp_path / "x").shape == (3, 384, 8)


@pytest.mark.parametrize("places", [[(0, 0)] * 2, [(0, 2**31), (9, 9)], [(0, 4000), (1, 4000)]], ids=["empty", "beyond", "overlapping"])  # fmt: skip
def test_tiff_of_jpegs_whose_places_cannot_be_is_refused(places, tmp_path):
    (tmp_path / "x").write_bytes(tiff_of_jpegs(jpeg(12), places))
    assert "are empty or overlap" in refused(tmp_path / "x")


@pytest.mark.parametrize("tag", [259, 273, 279])
def test_tiff_with_two_places_for_one_strip_is_refused(tag, tmp_path):
    """Pillow would take the second and count, its decoder the first and decode."""
    plain = tiff({})
    entry = next(plain[at : at + 12] for at in range(10, 200, 12) if plain[at : at + 2] == struct.pack("<H", tag))
    (tmp_path / "x").write_bytes(plain[:8] + struct.pack("<H", 10) + entry + plain[10:])
    assert f"tag {tag} occurs twice" in refused(tmp_path / "x")


def test_image_is_read_by_a_pillow_without_blocks(tmp_path, monkeypatch):
    """Before Pillow 11."""
    monkeypatch.delattr(Image.core, "new_block", raising=False)
    (tmp_path / "x").write_bytes(png())
    assert load_image(tmp_path / "x").shape == (3, 8, 8)


def test_bmp_that_is_filled_in_pixel_by_pixel_is_refused(tmp_path):
    """1,878 bytes, which took a minute."""
    rows = b"\1\1\0\0" * 200
    size, palette = struct.pack("<IiiHHIIiiII", 40, 1_000_000, 200, 1, 8, 1, len(rows), 0, 0, 256, 256), b"\0" * 1024
    (tmp_path / "x").write_bytes(b"BM" + struct.pack("<IHHI", 1078 + len(rows), 0, 0, 1078) + size + palette + rows)
    assert "run lengths" in refused(tmp_path / "x")


def test_metered_file_counts_anew_after_allow(tmp_path):
    (tmp_path / "x").write_bytes(b"0123456789")
    with open(tmp_path / "x", "rb") as file:
        metered = MeteredFile(file)
        metered.allow(4, 2)
        assert (metered.read(2), metered.read(2), metered.taken) == (b"01", b"23", 4)
        with pytest.raises(ValueError, match="too many"):
            metered.read(0)
        metered.allow(3, 9)
        with pytest.raises(ValueError, match="too large"):
            metered.read(4)
