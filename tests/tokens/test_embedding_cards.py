"""Images that contain an embedding, as AUTOMATIC1111's web UI writes them.

Read in AUTOMATIC1111/stable-diffusion-webui, ``modules/textual_inversion/image_embedding.py``: ``embedding_to_b64`` and
``insert_image_data_embed``. Its own ``test_embedding.png`` was read by hand, both ways.
"""

import base64
import json
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mcti_core.errors import TokenError
from mcti_core.tokens.embedding_cards import _noise, has_card, read_card
from mcti_core.tokens.formats import read_embedding
from mcti_core.tokens.io import import_embeddings

ROWS = torch.randn(3, 768, generator=torch.Generator().manual_seed(0)) * 0.02
BIG = torch.randn(3, 1280, generator=torch.Generator().manual_seed(1)) * 0.02
WIDE = torch.randn(2, 1024, generator=torch.Generator().manual_seed(2)) * 0.02


def content(kept, name="sea glass") -> bytes:
    listed = {"TORCHTENSOR": kept.tolist()} if isinstance(kept, torch.Tensor) else kept
    return json.dumps(
        {"string_to_token": {"*": 265}, "string_to_param": {"*": listed}, "name": name, "step": 60}
    ).encode()


def with_text(path, data: bytes):
    info = PngInfo()
    info.add_text("sd-ti-embedding", base64.b64encode(data).decode())
    Image.new("RGB", (16, 16), "white").save(path, pnginfo=info)
    return path


def generator(count: int) -> list[int]:
    """The web UI's own, number by number."""
    state, values = 0, []
    for _ in range(count):
        state = (1664525 * state + 1013904223) % 2**32
        values.append(state % 255)
    return values


def with_pixels(path, data: bytes, height=40, seed=0):
    """Two blocks left and right of a picture; their high bits are a pattern."""
    packed = np.frombuffer(zlib.compress(data, 9), np.uint8)
    size = -(-len(packed) // (3 * height)) * 3 * height
    random = np.random.default_rng(seed)
    noise = np.array(generator(size), np.uint8) & 0x0F
    halves = [np.resize(half, size) ^ noise for half in (packed & 0x0F, packed >> 4)]
    left, right = ((half | random.integers(1, 16, size, dtype=np.uint8) << 4).reshape(height, -1, 3) for half in halves)
    picture = random.integers(16, 256, (height, 30, 3), dtype=np.uint8) | 1
    black = np.zeros((height, 1, 3), np.uint8)
    Image.fromarray(np.concatenate([left, black, picture, black, right], axis=1)).save(path, lossless=True)
    return path


def test_noise_is_the_generators_whatever_its_length():
    for count in (1, 2, 3, 100, 1000, 4097):
        assert _noise(count).tolist() == [value & 0x0F for value in generator(count)]


@pytest.mark.parametrize("rows", [ROWS, WIDE, BIG[:1]], ids=["SD 1.x", "SD 2.x", "one vector of SDXL's second"])
@pytest.mark.parametrize(("write", "suffix"), [(with_text, ".png"), (with_pixels, ".png"), (with_pixels, ".webp")])
def test_read_embedding_of_a_card_is_equal_to_the_bit(rows, write, suffix, tmp_path):
    (found,) = read_embedding(write(tmp_path / f"card{suffix}", content(rows))).vectors.values()
    assert torch.equal(found, rows)


def test_read_embedding_of_a_card_of_sdxl_has_both_encoders(tmp_path):
    both = {"clip_l": {"TORCHTENSOR": ROWS.tolist()}, "clip_g": {"TORCHTENSOR": BIG.tolist()}}
    found = read_embedding(with_text(tmp_path / "card.png", content(both))).vectors
    assert torch.equal(found["clip_l"], ROWS)
    assert torch.equal(found["clip_g"], BIG)


def test_import_embeddings_of_a_card_is_called_as_the_card_says(tmp_path):
    tokens = import_embeddings([with_text(tmp_path / "00012.PNG", content(ROWS))])
    assert (tokens.labels, tokens.names) == (("sea glass",), ("sea-glass",))


@pytest.mark.parametrize(
    "picture",
    [
        lambda path: Image.new("RGB", (8, 8)).save(path),
        lambda path: Image.new("RGBA", (8, 8), "white").save(path),
        lambda path: Image.new("1", (9, 1), 1).save(path),
        lambda path: Image.fromarray(np.tile(np.array([9, 0, 5, 0, 9], np.uint8), (5, 1))).save(path),
        lambda path: Image.new("P", (5000, 5000), 1).save(path),
        lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40)),
        lambda path: path.write_text("no image"),
        lambda path: path.write_bytes(b""),
        lambda path: path.mkdir(),
        lambda path: None,
    ],
    ids=["black", "white", "bits", "dark columns", "large", "damaged", "text", "empty", "folder", "missing"],
)  # fmt: skip
def test_a_picture_is_no_card(picture, tmp_path):
    path = tmp_path / "x.png"
    picture(path)
    assert not has_card(path)
    with pytest.raises(TokenError):
        read_card(path)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[]", b"3", b"{}", b'{"string_to_param": 3}', b'{"string_to_param": {"*": 3}}', b'{"string_to_param": {"*": {"a": 1}}}',
        b'{"string_to_param": {"*": {"TORCHTENSOR": [[1], [2, 3]]}}}', b'{"string_to_param": {"*": {"TORCHTENSOR": ["a"]}}}',
        b'{"string_to_param": {"*": {"TORCHTENSOR": [' + b"9" * 400 + b"]}}}", b'{"string_to_param": {"*": {"TORCHTENSOR": [' + b"9" * 5000 + b"]}}}",
        b"[" * 100_000, b'{"string_to_param": {"*": {"TORCHTENSOR": ' + b"[" * 900 + b"]" * 900 + b"}}}",
        b'{"string_to_param": {"*": {"TORCHTENSOR": [NaN]}}}', b'{"string_to_param": {}}',
        b'{"string_to_param": {"*": {"TORCHTENSOR": [1.0]}, "b": {"TORCHTENSOR": [1.0]}}}', b"\xff\xfe",
    ],
)  # fmt: skip
@pytest.mark.parametrize("write", [with_text, with_pixels])
def test_a_card_with_other_content_is_refused(write, data, tmp_path):
    with pytest.raises(TokenError):
        read_embedding(write(tmp_path / "x.png", data))


def test_a_card_that_unpacks_to_much_is_refused(tmp_path):
    path = with_pixels(tmp_path / "x.png", b" " * 2**25)
    assert path.stat().st_size < 2**20
    with pytest.raises(TokenError, match="more than 8 MiB"):
        read_card(path)


def test_a_card_cut_anywhere_is_refused_or_whole(tmp_path):
    path = with_text(tmp_path / "x.png", content(ROWS[:1, :]))
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        try:
            (found,) = read_embedding(path).vectors.values()
        except TokenError:
            continue
        assert torch.equal(found, ROWS[:1])


@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.binary(max_size=6), st.integers(0, 9)), max_size=4),
    st.sampled_from([with_text, with_pixels]),
)
def test_a_card_changed_anywhere_is_read_or_refused(tmp_path_factory, changes, write):
    """In its JSON; other errors than ``TokenError`` would end a command."""
    data = content(ROWS[:1, :])
    for place, put_in, taken in changes:
        spot = place % len(data) if place % 2 else place % 120  # mostly not in the numbers
        data = data[:spot] + put_in + data[spot + taken :]
    path = write(tmp_path_factory.mktemp("any") / "x.png", data)
    try:
        (found,) = read_embedding(path).vectors.values()
    except TokenError:
        return
    assert found.shape == (1, 768)
    assert found.isfinite().all()
