"""Recognise a file by its name and its first bytes: a supported image, an unsupported one, or no image."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from importlib import import_module
from importlib.util import find_spec

__all__ = ["IMAGE_SUFFIXES", "READ_KINDS", "UNKNOWN_KIND", "kind_of", "reader_hint", "suffix_reason", "webp_size"]

READ_KINDS = {
    "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
    "JPEG": ("PIL.JpegImagePlugin", "JpegImageFile"),
    "WEBP": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "GIF": ("PIL.GifImagePlugin", "GifImageFile"),
    "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile"),
    "AVIF": ("PIL.AvifImagePlugin", "AvifImageFile"),
    "HEIF": ("pillow_heif.as_plugin", "HeifImageFile"),
}
"""Supported image formats and their reader classes. The content decides, not the file's name."""

IMAGE_SUFFIXES = (
    ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif", ".hif",
)  # fmt: skip
_SUFFIX_KINDS = {".avif": "AVIF", ".heic": "HEIF", ".heif": "HEIF", ".hif": "HEIF"}
"""Formats that not every installation can read, by suffix."""
_NOT_READ = {
    "raw camera files, convert them to JPEG": ".cr2 .cr3 .crw .nef .nrw .arw .srf .sr2 .dng .raf .orf .rw2 .pef .srw .x3f .raw .3fr .iiq .rwl",
    "videos": ".mp4 .mov .avi .mkv .webm .m4v .3gp .mts .m2ts .mpg .mpeg .wmv .flv .ogv",
    "convert them to JPEG or PNG": ".jxl .jp2 .j2k .jpx .jpf .jxr .wdp .psd .psb .svg .svgz .ico .exr .hdr .tga .dds .eps .pdf .xcf .ai .ppm "
    ".pgm .pbm .pnm .qoi .heics",
}  # fmt: skip
_OTHER_SUFFIXES = {suffix: reason for reason, suffixes in _NOT_READ.items() for suffix in suffixes.split()}
_FTYP = {
    b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIF", b"heix": "HEIF", b"heim": "HEIF", b"heis": "HEIF", b"hevc": "HEIF",
    b"hevx": "HEIF", b"crx ": "it contains a raw camera file, convert it to JPEG",
}  # fmt: skip
_BEGINNINGS = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"BM", "BMP"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\0\0\0\x0cjP  ", "it contains JPEG 2000, convert it to JPEG or PNG"),
    (b"\xff\x4f\xff\x51", "it contains JPEG 2000, convert it to JPEG or PNG"),
    (b"\0\0\0\x0cJXL ", "it contains JPEG XL, convert it to JPEG or PNG"),
    (b"\xff\x0a", "it contains JPEG XL, convert it to JPEG or PNG"),
    (b"8BPS", "it contains a Photoshop document, export it as PNG"),
    (b"%PDF", "it contains a PDF"),
    (b"%!PS", "it contains PostScript"),
    (b"\x1aE\xdf\xa3", "it contains a video"),
    (b"PK\x03\x04", "it contains an archive"),
    (b"\0\x05\x16\x07", "it contains a Mac's metadata of another file"),
    (b"version https://git-lfs", "it contains a Git LFS pointer, fetch the file itself"),
    (b"v/1\x01", "it contains OpenEXR, convert it to PNG"),
)


UNKNOWN_KIND = "it is not an image of a supported format"


def kind_of(beginning: bytes) -> str:
    """A key of ``READ_KINDS``, or a short description of any other file that begins with these (64) bytes."""
    if not beginning:
        return "it is empty"
    for start, kind in _BEGINNINGS:
        if beginning.startswith(start):
            return kind
    if beginning[:4] == b"RIFF":
        return "WEBP" if beginning[8:12] == b"WEBP" else "it contains video or sound"
    if beginning[4:8] == b"ftyp":
        brands = [beginning[place : place + 4] for place in range(8, len(beginning) - 3, 4)]
        return next((_FTYP[brand] for brand in brands if brand in _FTYP), "it contains a video")
    text = beginning.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "it contains a web page, perhaps an error of a download"
    if text.startswith((b"<svg", b"<?xml", b"<!doctype svg")):
        return "it contains SVG or XML, convert it to PNG"
    return UNKNOWN_KIND


@cache
def reader_hint(kind: str) -> str:
    """What to do if this installation cannot read a format; empty if it can."""
    if kind == "HEIF":
        return "" if find_spec("pillow_heif") else "install pillow-heif, or convert to JPEG"
    if kind in ("AVIF", "WEBP"):
        from PIL import features

        with suppress(ImportError, ValueError):  # Pillow knows no such reader or feature
            import_module(READ_KINDS[kind][0])
            if features.check(kind.lower()):
                return ""
        return "update Pillow, or convert to JPEG"
    return ""


def suffix_reason(suffix: str) -> str | None:
    """Why files with this suffix (in lower case) are not read as images; empty if they are, None for unknown suffixes."""
    if suffix in IMAGE_SUFFIXES:
        return reader_hint(_SUFFIX_KINDS.get(suffix, ""))
    return _OTHER_SUFFIXES.get(suffix)


def webp_size(beginning: bytes) -> tuple[int, int]:
    """Width and height from the first 30 bytes of a WebP file; (0, 0) if they are not there."""
    chunk, content = beginning[12:16], beginning[20:30]
    if len(content) < 10:
        return 0, 0
    if chunk == b"VP8X":
        return int.from_bytes(content[4:7], "little") + 1, int.from_bytes(content[7:10], "little") + 1
    if chunk == b"VP8L":
        bits = int.from_bytes(content[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if chunk == b"VP8 ":
        return int.from_bytes(content[6:8], "little") & 0x3FFF, int.from_bytes(content[8:10], "little") & 0x3FFF
    return 0, 0
