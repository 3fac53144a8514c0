"""Embeddings inside images, as AUTOMATIC1111's web UI writes them: a preview that contains the embedding.

The embedding is stored twice: as text of the PNG file, and in the pixels at the left and right edges, which survive programs that drop the text.

References: ``modules/textual_inversion/image_embedding.py`` of stable-diffusion-webui.
"""

from __future__ import annotations

import base64
import json
import warnings
import zlib
from pathlib import Path
from typing import Any

import torch

from ..errors import TokenError
from ..files.safe_load import open_token_file, refuse_large

__all__ = ["CARD_SUFFIXES", "has_card", "read_card"]

CARD_SUFFIXES = (".png", ".webp")
_TEXT = "sd-ti-embedding"
_MAX_JSON = 8 * 2**20
"""Maximum size in bytes: twice the size of 75 vectors of SDXL with 20 digits per number."""
_MAX_PIXELS = 16_000_000
_ZLIB = 0x78
"""First byte of a zlib stream."""


def has_card(path: str | Path) -> bool:
    """Whether an image contains an embedding, even a damaged one; False for an unreadable file."""
    try:
        return _find_json(Path(path)) is not None
    except (TokenError, OSError):
        return False


def read_card(path: str | Path) -> dict[str, Any]:
    """The embedding, in the layout of the same program's ``.pt`` files: ``{"string_to_param": {"*": (V, d)}, ...}``.

    Raises:
        TokenError: the file is not an image, is too large, or contains no embedding.
    """
    content = _find_json(Path(path))
    if content is None:
        raise TokenError("this image contains no embedding; use the web UI's original file, or a .pt file")
    if len(content) >= _MAX_JSON:
        raise TokenError(f"the embedding in this image has more than {_MAX_JSON // 2**20} MiB, so it is something else")
    try:
        found = json.loads(content)
        tokens = {key: _tensors(value) for key, value in found["string_to_param"].items()}
        return {**found, "string_to_param": tokens}
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError, OverflowError) as error:
        raise TokenError(f"the embedding in this image is damaged ({str(error)[:80]}); download it again") from error


def _tensors(value: Any) -> Any:
    """Decode a tensor of the web UI's JSON encoder, or a dict of tensors, as for SDXL."""
    if "TORCHTENSOR" in value:
        return torch.tensor(value["TORCHTENSOR"], dtype=torch.float32)
    return {key: torch.tensor(part["TORCHTENSOR"], dtype=torch.float32) for key, part in value.items()}


def _find_json(path: Path) -> bytes | None:
    """The embedding's JSON, at most ``_MAX_JSON`` bytes, from the file's text or its pixels; raises as ``read_card``."""
    from PIL import Image

    with open_token_file(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the size check below replaces Pillow's
        refuse_large(file.fileno())
        try:
            with Image.open(file, formats=("PNG", "WEBP")) as image:
                if image.width * image.height > _MAX_PIXELS:
                    return None
                if (text := getattr(image, "text", {}).get(_TEXT)) is not None:
                    return base64.b64decode(text[: 2 * _MAX_JSON])[:_MAX_JSON]
                return _from_pixels(image.convert("RGB"))
        except Exception as error:  # Pillow raises many types for damaged images
            raise TokenError(f"cannot be read as an image ({str(error)[:80] or type(error).__name__})") from error


def _from_pixels(image: Any) -> bytes | None:
    """The low four bits of two blocks, each separated from the picture by a black column: halves of a zlib stream's bytes."""
    import numpy as np

    pixels: Any = np.asarray(image)
    bright: Any = (pixels > 0).all(2)
    if not bright.any():
        return None
    columns, rows = np.flatnonzero(bright.any(0)), np.flatnonzero(bright.any(1))
    low = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] & 0x0F
    black = np.flatnonzero(low.max((0, 2)) == 0)
    if len(black) < 2 or not 0 < black[0] == low.shape[1] - 1 - black[-1]:
        return None
    left, right = low[:, : black[0]].reshape(-1), low[:, black[-1] + 1 :].reshape(-1)
    if (right[0] ^ _noise(1)[0]) << 4 | (left[0] ^ _noise(1)[0]) != _ZLIB:  # an ordinary image with dark columns
        return None
    noise = _noise(left.size)
    data = ((right ^ noise) << 4 | (left ^ noise)).tobytes()
    try:
        return zlib.decompressobj().decompress(data, _MAX_JSON)
    except zlib.error:
        return None


def _noise(count: int) -> Any:
    """(count,) uint8 mask that both blocks are XORed with: s % 255 & 15 of s <- 1664525 s + 1013904223 mod 2**32, from s = 0."""
    import numpy as np

    states = np.empty(count, dtype=np.uint32)
    states[0], known = 1013904223, 1
    factor, summand = 1664525, 1013904223  # ``known`` steps at once
    while known < count:
        more = min(known, count - known)
        states[known : known + more] = states[:more] * np.uint32(factor) + np.uint32(summand)
        factor, summand, known = factor * factor % 2**32, (factor + 1) * summand % 2**32, known + more
    return (states % 255 & 0x0F).astype(np.uint8)
