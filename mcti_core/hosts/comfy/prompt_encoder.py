"""Any CLIP of ComfyUI as an encoder of whole prompts: its own templates, padding and masks, with learned vectors in place of names.

ComfyUI tokenizes a prompt that names embedding files and puts their vectors into the rows of tokens. Here these files contain
markers that say which learned vector belongs there. The vectors replace the markers before ComfyUI encodes the rows, and gradients
flow to them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import torch
from comfy.sd1_clip import SDClipModel
from torch import Tensor, nn

from ...errors import HostError, TokenError
from ...tokens.token_set import TokenSet
from ..base import HostPrompts
from ..checkpointing import blocks_of, checkpointed
from ..features import Conditioning
from .out_of_place import out_of_place
from .prompt_tokens import clip_with_tokens

__all__ = ["ComfyPromptEncoder"]


class ComfyPromptEncoder:
    """A ``comfy.sd.CLIP`` as a ``hosts.base.PromptEncoder``.

    Args:
        clip: with its LoRA patches and clip-skip.
        widths: width of a vector by encoder, in any order.
        device: device of the conditioning.

    Raises:
        HostError: an encoder's tokenizer ignores embedding files.
    """

    def __init__(self, clip: Any, widths: Mapping[str, int], device: torch.device):
        self._clip, self._widths, self._device = copy.copy(clip), dict(widths), device
        self._clip.load_model = lambda *_, **__: clip.patcher  # the session has loaded it
        try:
            self.tokenize([[("a ", 1.0), (0, 1.0)]], 1)
        except TokenError as error:
            raise HostError(
                f"the CLIP connected here ({type(clip.tokenizer).__name__}) cannot be prompted with tokens: {error}"
            ) from error

    def tokenize(self, prompts: Sequence[Sequence[tuple[str | int, float]]], num_vectors: int) -> HostPrompts:
        count = 1 + max((piece for row in prompts for piece, _ in row if isinstance(piece, int)), default=0)
        markers = _markers(self._widths, count, num_vectors)
        clip = clip_with_tokens(self._clip, markers)
        tokenized = []
        for row in prompts:
            tokens = clip.tokenize(_text(row, markers.names))
            entries = (entry[0] for rows in tokens.values() for encoded in rows for entry in encoded)
            marked_slots = [_marked_slot(entry) for entry in entries if isinstance(entry, Tensor)]
            slots = [piece * num_vectors + v for piece, _ in row if isinstance(piece, int) for v in range(num_vectors)]
            for number, name in enumerate(self._widths):
                encoder_slots = [slot for encoder, slot in marked_slots if encoder == number]
                if encoder_slots != slots:
                    words = "".join(piece if isinstance(piece, str) else "{}" for piece, _ in row)
                    raise TokenError(
                        f"the text encoder {name} reads {len(encoder_slots)} of the {len(slots)} vectors in the prompt {words!r:.120}; "
                        "a prompt may be too long for it, or name too many tokens"
                    )
            tokenized.append(tokens)
        return HostPrompts(tuple(tokenized))

    def encode(self, prompts: HostPrompts, vectors: Mapping[str, Tensor]) -> Conditioning:
        conditionings = []
        training = torch.is_grad_enabled() and any(each.requires_grad for each in vectors.values())
        # ComfyUI casts each weight to float32 for its operation; autograd would keep the casts of a whole encoder, 20 GB of T5-XXL
        blocks = blocks_of(self._clip.cond_stage_model) if training else ()
        with checkpointed(blocks, out_of_place):
            for number, tokens in enumerate(prompts.tokenized):
                rows = [vectors[name][number if len(vectors[name]) > 1 else 0] for name in self._widths]  # (M, d) each
                conditionings.append(self._encode(tokens, rows))
        return Conditioning.of(conditionings)

    def _encode(self, tokens: Mapping[str, Any], vectors: Sequence[Tensor]) -> dict[str, Tensor]:
        """Encode a prompt as the stock node does; the result is keyword arguments of the model's ``extra_conds``."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        filled = {key: [[_spliced(entry, vectors) for entry in row] for row in rows] for key, rows in tokens.items()}
        with out_of_place(), _options_restored(self._clip.cond_stage_model):
            encoded = self._clip.encode_from_tokens(filled, return_pooled=True, return_dict=True)
        conditioning = {}
        for name, value in encoded.items():
            if isinstance(value, Tensor):
                value = value.float() if value.is_floating_point() else value
                conditioning["cross_attn" if name == "cond" else name] = value.to(self._device)
            elif value is not None and name != "hooks":
                raise HostError(
                    f"the CLIP connected here adds {name} to a prompt, which is not a tensor; tokens cannot be trained for it"
                )
        return conditioning


def _markers(widths: Mapping[str, int], classes: int, num_vectors: int) -> TokenSet:
    """Tokens whose vectors begin with their slot and the number of their encoder."""
    slots = torch.arange(classes * num_vectors, dtype=torch.float32).view(classes, num_vectors)
    vectors = {}
    for number, (name, width) in enumerate(widths.items()):
        vectors[name] = torch.zeros(classes, num_vectors, width)
        vectors[name][..., 0], vectors[name][..., 1] = slots, number
    return TokenSet(tuple(f"mctislot{index}" for index in range(classes)), vectors)


def _marked_slot(marker: Tensor) -> tuple[int, int]:
    """Encoder and slot that a marker stands for."""
    return int(marker[1]), int(marker[0])


def _spliced(entry: tuple[Any, ...], vectors: Sequence[Tensor]) -> tuple[Any, ...]:
    """A row's entry (token or marker, weight, ...) with the learned vector in place of a marker."""
    if not isinstance(entry[0], Tensor):
        return entry
    encoder, slot = _marked_slot(entry[0])
    return vectors[encoder][slot], *entry[1:]


def _text(row: Sequence[tuple[str | int, float]], names: Sequence[str]) -> str:
    """A prompt in ComfyUI's syntax."""
    text = ""
    for piece, weight in row:
        words = piece.replace("(", "\\(").replace(")", "\\)") if isinstance(piece, str) else f"embedding:{names[piece]}"
        words = words if weight == 1.0 else f"({words}:{weight})"
        apart = text[-1:].strip() and ("embedding:" in (words[:10], text.rpartition(" ")[2][:10]))
        text += f" {words}" if apart and words[:1].strip() else words
    return text


@contextmanager
def _options_restored(model: nn.Module) -> Iterator[None]:
    """Restore the options that ComfyUI leaves on its text encoders."""
    parts = [module for module in model.modules() if isinstance(module, SDClipModel)]
    before = [{name: value for name, value in vars(part).items() if not name.startswith("_")} for part in parts]
    try:
        yield
    finally:
        for part, own in zip(parts, before, strict=True):
            vars(part).update(own)
