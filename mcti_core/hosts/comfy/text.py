"""ComfyUI's CLIP as text encoders: CLIP-L, OpenCLIP H and OpenCLIP bigG, one or two of them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import torch
from torch import Tensor, nn

from ...errors import HostError
from ..base import TextFeatures, hidden_at
from .private_names import is_paged

__all__ = ["ComfyTextEncoder", "text_encoders"]

_NAMES = ("clip_l", "clip_h", "clip_g")
_COMBINATIONS = (("clip_l",), ("clip_h",), ("clip_l", "clip_g"))


def text_encoders(clip: Any, device: torch.device) -> dict[str, ComfyTextEncoder]:
    """The encoders of a ``comfy.sd.CLIP`` by name; their features are on ``device``.

    Raises:
        HostError: the CLIP has an unsupported combination of encoders.
    """
    both, tokenizers = clip.cond_stage_model, clip.tokenizer
    found = tuple(
        name for name in _NAMES if getattr(both, name, None) is not None and getattr(tokenizers, name, None) is not None
    )
    others = [name for name, part in both.named_children() if name not in _NAMES and getattr(part, "transformer", None)]
    if found not in _COMBINATIONS or (others and len(found) < 2):
        inside = ", ".join([*found, *others]) or type(both).__name__
        raise HostError(
            f"the CLIP connected here has {inside}; tokens can be trained for Stable Diffusion 1.x (clip_l), 2.x (clip_h), "
            "SDXL and Stable Diffusion 3 (clip_l and clip_g)"
        )
    return {name: ComfyTextEncoder(clip, name, device) for name in found}


class ComfyTextEncoder:
    """One text encoder of a ``comfy.sd.CLIP``, with its LoRA patches and clip-skip."""

    def __init__(self, clip: Any, name: str, device: torch.device):
        self.name, self.device = name, device
        self._model: Any = getattr(clip.cond_stage_model, name)
        self._tokenizer: Any = getattr(clip.tokenizer, name)
        self._patcher = clip.patcher
        self._layer = _layer(self._model, clip.layer_idx)
        self.begin, self.end = int(self._tokenizer.start_token), int(self._tokenizer.end_token)
        self.pad, self.length = int(self._tokenizer.pad_token), int(self._tokenizer.max_length)
        self.vocabulary, self.width = self._table.weight.shape

    def tokenize(self, text: str) -> list[int]:
        return [int(token) for token in self._tokenizer.tokenizer(text)["input_ids"][1:-1]]

    def embed(self, ids: Tensor) -> Tensor:
        # dynamic VRAM would cast the whole table on the CPU at each lookup
        home = self._patcher.load_device if is_paged(self._table) else self._table.weight.device
        return self._table(ids.to(home), out_dtype=torch.float32).to(ids.device)

    def encode(self, ids: Tensor, embeds: Tensor) -> TextFeatures:
        comfy.model_management.throw_exception_if_processing_interrupted()
        end = (ids[:, 1:] == self.end).int().argmax(1) + 1  # the first one: padding may be the same id
        with _positions(self._model.transformer.text_model.embeddings.position_embedding, ids.shape[1]):
            last, middle, _, _ = self._model.transformer(
                ids,  # only to find the end of text: a list of positions would make a GPU sync
                None,
                embeds=embeds.to(self._patcher.load_device, torch.float32),
                intermediate_output=self._layer,
                final_layer_norm_intermediate=self._model.layer_norm_hidden_state,
                dtype=torch.float32,
            )
        pooled = hidden_at(last, end)  # not by the tower's own end-of-text id
        if self._model.return_projected_pooled:
            pooled = self._model.transformer.text_projection(pooled)
        return TextFeatures(
            context=(last if self._layer is None else middle).float().to(self.device),
            hidden=last.float().to(self.device),
            end=end.to(self.device),
            pooled=pooled.float().to(self.device),
        )

    @property
    def _table(self) -> Any:
        return self._model.transformer.get_input_embeddings()


@contextmanager
def _positions(embedding: nn.Module, length: int) -> Iterator[None]:
    """Shorten the tower's position table to the prompts' length during a call, since ComfyUI's tower adds all positions."""
    whole: Any = embedding.weight
    if length == len(whole):
        yield
        return
    embedding._parameters["weight"] = nn.Parameter(whole[:length], requires_grad=False)
    try:
        yield
    finally:
        embedding._parameters["weight"] = whole


def _layer(model: Any, clip_skip: int | None) -> int | None:
    """The layer that the denoiser attends to, as ComfyUI chooses it; None for the last.

    A copy on the same weights is queried, since ComfyUI's versions differ if a model has no such layer.
    """
    asked = copy.copy(model)
    asked.reset_clip_options()
    if clip_skip is not None:
        asked.set_clip_options({"layer": clip_skip})
    if hasattr(asked, "execution_device"):
        asked.set_clip_options({"execution_device": None})
    return asked.layer_idx if asked.layer == "hidden" else None
