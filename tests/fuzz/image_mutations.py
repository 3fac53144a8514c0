"""Damaged and hostile images, mutated from valid ones by a seeded generator: the same seed gives the same file."""

from __future__ import annotations

import binascii
import io
import struct
import zlib
from collections.abc import Sequence
from random import Random
from typing import Any

from PIL import Image, PngImagePlugin

from .mutations import bytes_changed


def metadata_changed(random: Random, blocks: Sequence[bytes]) -> bytes:
    """An image whose pixels are whole and whose metadata is not.

    Args:
        blocks: whole EXIF.
    """
    block = bytes_changed(random, random.choice(blocks), blocks)
    if random.random() < 0.5:  # cut off, often within the first bytes, which say where the directory is
        block = block[: random.randrange(random.choice((20, 80, 1 + len(block))))]
    turned = b'<x tiff:Orientation="6"/><tiff:Orientation>%s</tiff:Orientation>' % random.choice((b"8", b"x", b"\xff"))
    kind, options = random.choice(("PNG", "PNG", "WEBP", "JPEG")), dict[str, Any]()
    if random.random() < 0.8:
        options["exif"] = block
    if random.random() < 0.2:
        options["icc_profile"] = random.randbytes(random.randrange(200))
    if kind != "PNG" and random.random() < 0.3:
        options["xmp"] = bytes_changed(random, turned, blocks)
    if kind == "PNG":
        options["pnginfo"] = _png_texts(random, block, turned)
    made = io.BytesIO()
    Image.new("RGB", (9, 7)).save(made, kind, **options)
    return made.getvalue()


def _png_texts(random: Random, block: bytes, turned: bytes) -> PngImagePlugin.PngInfo:
    """EXIF as ImageMagick writes it, in hexadecimal after three lines; and XMP."""
    texts = PngImagePlugin.PngInfo()
    if random.random() < 0.3:
        lines = f"\nexif\n{len(block):8}\n{block.hex()}\n"
        cut = random.choice((len(lines), random.randrange(len(lines))))
        texts.add_text("Raw profile type exif", lines[:cut] + random.choice(("", "x")), zip=random.random() < 0.5)
    if random.random() < 0.3:
        texts.add_itxt("XML:com.adobe.xmp", turned.decode("latin-1"))
    return texts


def png_changed(random: Random, content: bytes) -> bytes:
    """A PNG with right checksums and a wrong header or chunk."""
    chunks, place = [], 8
    while place + 12 <= len(content):
        (size,) = struct.unpack(">I", content[place : place + 4])
        chunks.append((content[place + 4 : place + 8], bytearray(content[place + 8 : place + 8 + size])))
        place += 12 + size
    kind, data = random.choice(chunks) if random.random() < 0.5 else chunks[0]
    if random.random() < 0.01:  # a small file of very many pixels
        side = random.choice((2000, 8000, 13_000, 15_000))
        empty = zlib.compress(bytes(side * ((side + 7) // 8 + 1)), 1)
        chunks[:] = [
            (b"IHDR", bytearray(struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))),
            (b"IDAT", bytearray(empty)),
            (b"IEND", bytearray()),
        ]
    elif kind == b"IHDR" and random.random() < 0.7:
        data[0:8] = struct.pack(
            ">II", random.choice((0, 1, 30, 9000, 10**5, 2**31)), random.choice((0, 1, 30, 9000, 10**5, 2**31))
        )
    elif data:
        data[random.randrange(len(data))] = random.randrange(256)
    if random.random() < 0.2:
        chunks.insert(random.randrange(1, len(chunks)), random.choice(chunks))
    if random.random() < 0.2:
        extra = random.choice(
            (
                (b"tRNS", b"\0" * 3),
                (b"eXIf", random.randbytes(60)),
                (b"acTL", b"\0\0\0\x02" * 2),
                (b"zTXt", b"a\0\0x"),
                (b"iCCP", b"a\0\0x"),
            )
        )
        chunks.insert(1, (extra[0], bytearray(extra[1])))
    made = content[:8]
    for name, part in chunks:
        made += struct.pack(">I", len(part)) + name + part + struct.pack(">I", binascii.crc32(name + part))
    return made


def scans_added(random: Random, content: bytes) -> bytes:
    """A JPEG with further passes over its pixels, or with very many segments."""
    table = b"\xff\xc4\0\x14\x10\1" + bytes(15) + b"\xe0"  # one code: the next 16,384 blocks and more are empty
    scan = b"\xff\xda\0\x08\1" + bytes([random.choice((1, 1, 2, 9)), 0, random.choice((0, 1)), 63, 0]) + b"\x7f\x7f"
    added = random.choice((table + scan, scan, b"\xff\xc4\0\2", b"\xff\xfe\0\3x")) * random.choice((1, 63, 200, 20_000))
    size = struct.pack(">HH", *random.choices((1, 24, 2000, 12_000, 14_000, 65_535), k=2))
    frame = content.find(b"\xff\xc2")
    if frame > 0 and random.random() < 0.3:
        content = content[: frame + 5] + size + content[frame + 9 :]
    return content[:-2] + added + content[-2:]
