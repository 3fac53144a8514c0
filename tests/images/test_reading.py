"""Supported image files, and those refused before they cost time or memory."""

import os
import socket
import struct
import sys
import threading
import time
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, features

from mcti_core.errors import ExamplesError
from mcti_core.files.kinds import reader_hint
from mcti_core.images import reading as image_files
from mcti_core.images.reading import UnreadableError, load_image, load_square, load_squares

GRADIENT = Image.linear_gradient("L").resize((40, 30)).convert("RGB")


@pytest.fixture(autouse=True)
def quickly():
    """Nothing here waits."""
    begun = time.process_time()
    yield
    assert time.process_time() - begun < 20


def refused(path):
    with pytest.raises(UnreadableError) as caught:
        load_image(path)
    assert str(path)[:100] in str(caught.value)  # messages shorten very long ones
    return caught.value.reason


@pytest.mark.parametrize(
    ("kind", "name", "options"),
    [
        ("JPEG", "x.jfif", {"quality": 95}), ("JPEG", "x.jpe", {"quality": 95, "progressive": True}), ("GIF", "x.gif", {}), ("TIFF", "x.tif", {}),
        ("TIFF", "x.png", {"compression": "tiff_lzw"}), ("PNG", "x.jpg", {}), ("WEBP", "x.jpeg", {"lossless": True}), ("BMP", "x.tiff", {}),
        ("PNG", "no suffix", {}), ("MPO", "phone.jpg", {"quality": 95}), ("AVIF", "x.avif", {"quality": 95}), ("AVIF", "x.jpg", {"quality": 95}),
    ],
)  # fmt: skip
def test_image_is_read_by_its_content_whatever_it_is_called(kind, name, options, tmp_path):
    if kind == "AVIF" and "avif" not in features.get_supported_features() + features.get_supported_modules():
        pytest.skip("this Pillow reads no AVIF")
    GRADIENT.save(tmp_path / name, kind, **options)
    expected = torch.from_numpy(np.array(GRADIENT)).permute(2, 0, 1) / 255
    assert (load_image(tmp_path / name) - expected).abs().max() < 0.06


def test_heic_is_read_where_pillow_heif_is(tmp_path):
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(GRADIENT).save(tmp_path / "x.heic", quality=95)
    (tmp_path / "x.jpg").write_bytes((tmp_path / "x.heic").read_bytes())
    expected = torch.from_numpy(np.array(GRADIENT)).permute(2, 0, 1) / 255
    for name in ("x.heic", "x.jpg"):
        assert (load_image(tmp_path / name) - expected).abs().max() < 0.06


def test_heic_without_pillow_heif_is_refused_with_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr("mcti_core.files.kinds.find_spec", lambda name: None)
    reader_hint.cache_clear()
    (tmp_path / "x.jpg").write_bytes(b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic" + bytes(64))
    assert "install pillow-heif" in refused(tmp_path / "x.jpg")
    reader_hint.cache_clear()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it is empty"), (b"\n<!DOCTYPE html><html>403", "a web page"), (b"\0\0\0\x0cJXL \r\n", "JPEG XL"), (b"\xff\x0a" + bytes(9), "JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"), (b"8BPS\0\1", "Photoshop"), (b"%!PS-Adobe", "PostScript"), (b"%PDF-1.7", "a PDF"),
        (b"\0\0\0\x20ftypisom", "a video"), (b"\x1aE\xdf\xa3", "a video"), (b"PK\3\4", "an archive"), (b"\0\5\x16\7", "a Mac's metadata"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"), (b"<?xml version='1.0'?><svg>", "SVG"), (b"\0\0\0\x18ftypcrx ", "raw camera"),
        (b"hello", "not an image of a supported"), (bytes(100), "not an image of a supported"),
    ],
)  # fmt: skip
def test_other_content_is_refused_with_what_it_is(content, reason, tmp_path):
    (tmp_path / "x.jpg").write_bytes(content)
    assert reason in refused(tmp_path / "x.jpg")


class TestDoors:
    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
    def test_named_pipe_is_refused_and_not_opened(self, tmp_path):
        os.mkfifo(tmp_path / "x.png")
        os.symlink(tmp_path / "x.png", tmp_path / "link.png")
        opened = threading.Event()

        def write():
            os.close(os.open(tmp_path / "x.png", os.O_WRONLY))  # returns as soon as somebody opens it for reading
            opened.set()

        thread = threading.Thread(target=write, daemon=True)
        thread.start()
        for name in ("x.png", "link.png"):
            assert "named pipe" in refused(tmp_path / name)
        assert not opened.wait(0.1)
        os.close(os.open(tmp_path / "x.png", os.O_RDONLY | os.O_NONBLOCK))
        thread.join(5)

    @pytest.mark.skipif(sys.platform == "win32", reason="this system has no such files")
    def test_socket_device_and_folder_are_refused(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind("s.png")
            assert "socket" in refused("s.png")
        for device in ("/dev/zero", "/dev/tty", "/dev/null"):
            assert "device" in refused(device)
        (tmp_path / "folder.png").mkdir()
        assert "folder" in refused(tmp_path / "folder.png")

    @pytest.mark.parametrize("name", ["nowhere.png", "a\0b.png", "x" * 5000])
    def test_name_of_nothing_is_refused(self, name, tmp_path):
        assert refused(tmp_path / name)

    def test_link_that_leads_back_to_itself_is_refused(self, tmp_path):
        os.symlink(tmp_path / "x.png", tmp_path / "x.png")
        assert refused(tmp_path / "x.png")

    def test_file_beyond_the_limit_of_bytes_is_not_read(self, tmp_path):
        GRADIENT.save(tmp_path / "x.webp")
        os.truncate(tmp_path / "x.webp", 2**30 + 1)
        assert "1.0 GiB; at most 1 GiB are read" in refused(tmp_path / "x.webp")

    @pytest.mark.parametrize("extra", [64, 200, 1000])
    def test_jpeg_of_many_scans_is_refused_at_once(self, extra, tmp_path):
        GRADIENT.save(tmp_path / "x.jpg", progressive=True)
        content = (tmp_path / "x.jpg").read_bytes()
        (tmp_path / "x.jpg").write_bytes(content[:-2] + b"\xff\xda\0\x08\1\1\0\0\x3f\0\x7f" * extra + content[-2:])
        assert "64 passes over its pixels" in refused(tmp_path / "x.jpg")

    def test_fewer_scans_are_allowed_of_larger_images(self, tmp_path, monkeypatch):
        GRADIENT.save(tmp_path / "x.jpg", progressive=True)
        monkeypatch.setattr(image_files, "MAX_SCANNED_PIXELS", 5 * 40 * 30)
        assert "5 passes" in refused(tmp_path / "x.jpg")

    def test_image_that_takes_more_than_the_budget_is_refused(self, tmp_path, monkeypatch):
        GRADIENT.save(tmp_path / "x.png")
        monkeypatch.setattr(image_files.image_budget, "total", 1000)
        assert "GiB of memory" in refused(tmp_path / "x.png")


def png_header(width, height):
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


class TestSize:
    @pytest.mark.parametrize("size", [(20000, 10001), (2**31 - 1, 2**31 - 1), (1, 1_000_001), (1_000_001, 1)])
    def test_too_many_pixels_are_refused_in_our_words(self, size, tmp_path):
        (tmp_path / "x.png").write_bytes(png_header(*size))
        assert f"{size[0]} x {size[1]} pixels; at most 200 million are read, 1,000,000 on a side" in refused(
            tmp_path / "x.png"
        )

    def test_webp_is_refused_by_its_header(self, tmp_path):
        """Pillow's reader makes two canvases when it opens one."""
        head = (
            b"VP8X" + struct.pack("<I", 10) + bytes(4) + (16382).to_bytes(3, "little") + (16382).to_bytes(3, "little")
        )
        (tmp_path / "x.webp").write_bytes(b"RIFF" + struct.pack("<I", len(head) + 4) + b"WEBP" + head + bytes(40))
        assert "16383 x 16383 pixels" in refused(tmp_path / "x.webp")

    @pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"}])
    def test_size_of_webp_is_that_of_its_header(self, options, tmp_path):
        GRADIENT.resize((301, 17)).save(tmp_path / "x.webp", **options)
        assert image_files.webp_size((tmp_path / "x.webp").read_bytes()[:64]) == (301, 17)

    @pytest.mark.parametrize(
        ("name", "mode", "options"),
        [("x.jpg", "RGB", {}), ("x.jpg", "L", {"progressive": True}), ("x.jpg", "CMYK", {}), ("x.png", "RGBA", {}), ("x.png", "P", {}), ("x.webp", "RGB", {}), ("x.tif", "I;16", {})],
    )  # fmt: skip
    def test_very_large_image_is_read_at_half_its_size(self, name, mode, options, tmp_path, monkeypatch):
        image = Image.linear_gradient("L").resize((301, 201))
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
        image.save(tmp_path / name, **options)
        whole = load_image(tmp_path / name)
        monkeypatch.setattr(image_files, "_MAX_FULL_SIZE_PIXELS", 60_000)
        monkeypatch.setattr(image_files, "_STRIP_PIXELS", 301 * 9)  # some rows, an odd number
        half = load_image(tmp_path / name)
        assert half.shape == (3, 101, 151)
        smaller = torch.nn.functional.interpolate(whole[None], size=(101, 151), mode="bilinear", antialias=True)[0]
        assert (half - smaller)[:, 2:-2, 2:-2].abs().max() < 0.05

    @pytest.mark.filterwarnings("error")
    def test_limit_and_warning_of_pillow_are_not_met(self, tmp_path, monkeypatch):
        GRADIENT.save(tmp_path / "x.png")
        GRADIENT.save(tmp_path / "x.tif")
        for pixels in (1000, 500):  # it warns above them, and refuses twice as many
            monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels)
            monkeypatch.setattr(image_files, "_STRIP_PIXELS", 400)
            for name in ("x.png", "x.tif"):
                assert load_image(tmp_path / name).shape == (3, 30, 40)

    @pytest.mark.slow
    @pytest.mark.filterwarnings("error")
    def test_photo_of_a_200_megapixel_phone_is_read_without_a_warning(self, tmp_path):
        """Grey and plain, so that it takes a second."""
        Image.new("L", (16320, 12240), 200).save(tmp_path / "x.jpg", quality=30)
        square = load_square(tmp_path / "x.jpg", 32)
        assert (square - 200 / 255).abs().max() < 0.02


def grey(array, path):
    Image.fromarray(array).save(path)
    return load_image(path)[0]


class TestDepth:
    """Grey of more than eight bits is neither black nor white."""

    RAMP = np.linspace(0, 1, 48).reshape(6, 8)

    @pytest.mark.parametrize(
        ("dtype", "white"), [(np.float32, 1), (np.uint16, 65535), (np.uint16, 4095), (np.uint16, 255), (np.int32, 65535), (np.int32, 4095)]
    )  # fmt: skip
    @pytest.mark.parametrize("suffix", ["tif", "png"])
    def test_values_are_scaled(self, dtype, white, suffix, tmp_path):
        if suffix == "png" and dtype is not np.uint16:
            pytest.skip("PNG has no such values")
        found = grey((self.RAMP * white).astype(dtype), tmp_path / f"x.{suffix}")
        assert np.allclose(found, self.RAMP, atol=1.1 / min(white, 255) if white > 1 else 1 / 255)

    @pytest.mark.parametrize(
        "array",
        [RAMP.astype(np.float32) * 255, RAMP.astype(np.float32) - 0.5, (RAMP * 2**30).astype(np.int32), -np.ones((4, 4), dtype=np.int32),
         np.full((4, 4), np.nan, dtype=np.float32), np.where(RAMP > 0.5, np.nan, RAMP).astype(np.float32), np.full((4, 4), np.inf, dtype=np.float32)],
    )  # fmt: skip
    def test_values_without_a_known_white_are_refused(self, array, tmp_path):
        Image.fromarray(array).save(tmp_path / "x.tif")
        assert "no known white; save it with 8 or 16 bits" in refused(tmp_path / "x.tif")

    def test_turned_tiff_is_upright(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6
        Image.fromarray(np.array([[0, 255], [0, 255], [0, 255]], dtype=np.uint8)).save(tmp_path / "x.tif", exif=exif)
        assert load_image(tmp_path / "x.tif")[0].tolist() == [[0, 0, 0], [1, 1, 1]]

    @pytest.mark.parametrize("turn", range(1, 9))
    def test_every_orientation_is_that_of_pillow(self, turn, tmp_path):
        from PIL import ImageOps

        exif = Image.Exif()
        exif[0x0112] = turn
        GRADIENT.rotate(20).save(tmp_path / "x.png", exif=exif)
        with Image.open(tmp_path / "x.png") as image:
            expected = np.asarray(ImageOps.exif_transpose(image))
        assert np.array_equal(load_image(tmp_path / "x.png").mul(255).round().byte().permute(1, 2, 0), expected)


def test_one_message_names_all_files_that_cannot_be_read(tmp_path):
    GRADIENT.save(tmp_path / "good.png")
    (tmp_path / "empty.png").touch()
    (tmp_path / "page.jpg").write_text("<html>")
    paths = [tmp_path / name for name in ("good.png", "empty.png", "nowhere.png", "page.jpg")]
    with pytest.raises(
        ExamplesError,
        match=r"^3 images cannot be read: .*empty\.png \(it is empty\), .*nowhere\.png \(no such file\), .*web page",
    ):
        load_squares([*paths, torch.rand(3, 4, 4)], 8)
    with pytest.raises(UnreadableError, match=r"empty\.png cannot be read as an image"):
        load_squares(paths[:2], 8)
    with pytest.raises(ExamplesError, match=r"^30 images .* and 10 more; replace or remove them$"):
        load_squares([paths[1]] * 30, 8)
    assert [square.shape for square in load_squares([paths[0], torch.rand(3, 4, 4)], 8)] == [(3, 8, 8)] * 2
