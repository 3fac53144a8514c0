"""Text encoders by ComfyUI's names, which its tokenizers look up as keys of an embedding file (``embedding_key``)."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import TokenError

__all__ = [
    "CLIP_FOR_CLASSIFYING", "ONETRAINER_KEYS", "WIDTHS", "describe_encoders", "describe_widths", "encoder_named",
    "encoder_of_width",
]  # fmt: skip

WIDTHS: Mapping[str, tuple[int, ...]] = {
    "clip_l": (768,), "clip_h": (1024,), "clip_g": (1280,),
    "t5xxl": (4096, 1024), "t5base": (768,), "umt5xxl": (4096,), "umt5base": (768,), "mt5xl": (2048,), "pile_t5xl": (2048,),
    "byt5_small": (1472,), "t5gemma": (768,), "llama": (4096,),
    "gemma2_2b": (2304,), "gemma3_4b": (2560,), "gemma3_12b": (3840,), "gemma4": (1536, 2560, 3840, 5376),
    "qwen25_3b": (2048,), "qwen25_7b": (3584,), "qwen3_06b": (1024,), "qwen3_2b": (2048,), "qwen3_4b": (2560,), "qwen3_8b": (4096,),
    "qwen3vl_4b": (2560,), "qwen3vl_8b": (4096,), "qwen3vl_32b": (5120,),
    "qwen35_08b": (1024,), "qwen35_2b": (2048,), "qwen35_4b": (2560,), "qwen35_9b": (4096,), "qwen35_27b": (5120,),
    "mistral3_24b": (5120, 3072), "ministral3_3b": (3072,), "gpt_oss": (2880,), "hidream_o1": (4096,),
    "jina_clip_2": (1024,), "chinese_roberta": (1024,), "sam3_clip": (1024,), "lyrics": (1024,),
}  # fmt: skip
"""Embedding key -> widths of the token tables under this key, of all supported versions of ComfyUI. Cosmos calls its T5-11b, 1024 wide,
``t5xxl`` too, and ERNIE-Image its Ministral 3, 3072 wide, ``mistral3_24b``."""

ONETRAINER_KEYS = {"t5xxl": "t5", "gemma2_2b": "gemma"}
"""Encoders that OneTrainer, and diffusers' training scripts, name differently."""

CLIP_FOR_CLASSIFYING = "clip_twin"
"""Key of the vectors for the text tower of the CLIP space's file, where no CLIP is among a model's text encoders. They serve only to
classify by CLIP, so they are in token sets and not in embedding files, and only the classification term trains them."""

_CLIP = ("clip_l", "clip_h", "clip_g")


def encoder_named(key: str) -> str | None:
    """The encoder of a key, also of OneTrainer's; None for any other key."""
    encoder = next((name for name, theirs in ONETRAINER_KEYS.items() if theirs == key), key)
    return encoder if encoder in WIDTHS else None


def encoder_of_width(width: int) -> str:
    """The encoder of vectors in a file that does not name one: CLIP, or else the only encoder of this width.

    Raises:
        TokenError: several encoders have this width, or none has.
    """
    fitting = [name for name, widths in WIDTHS.items() if width in widths]
    clip = [name for name in fitting if name in _CLIP] or fitting
    if len(clip) > 1:
        raise TokenError(
            f"its vectors are {width} wide and it does not name their text encoder, which can be {' or '.join(fitting)}; "
            "rename its tensor to the right one"
        )
    if not clip:
        raise TokenError(f"its vectors are {width} wide; without the encoder's name, {describe_widths()} are supported")
    return clip[0]


def describe_encoders(widths: Mapping[str, int]) -> str:
    """Encoders and their widths, for a message."""
    return " and ".join(f"{name}, {width} wide" for name, width in widths.items())


def describe_widths(encoder: str = "") -> str:
    """Widths for a message: an encoder's own, or those of CLIP."""
    return ", ".join(f"{width} ({name})" for name in ([encoder] if encoder else _CLIP) for width in WIDTHS[name])
