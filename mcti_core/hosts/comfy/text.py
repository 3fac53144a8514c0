"""The text encoders of ComfyUI's CLIP: their tokenizers, token tables, and CLIP's own text towers."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import comfy.clip_model
import comfy.model_management
import torch
from comfy.sd1_clip import SD1ClipModel, SDClipModel, SDTokenizer
from comfy.sdxl_clip import SDXLClipModel
from torch import Tensor, nn

from ...errors import HostError
from ..features import TextFeatures, hidden_at
from ..patching import patched
from .out_of_place import out_of_place
from .private_names import is_paged

__all__ = ["ComfyTextEncoder", "ComfyTokenTable", "has_only_clip_towers", "text_encoders", "tokenizer_attributes"]

_COMBINATIONS = ({"clip_l"}, {"clip_h"}, {"clip_l", "clip_g"})


def text_encoders(clip: Any, device: torch.device) -> dict[str, ComfyTokenTable]:
    """The encoders of a ``comfy.sd.CLIP`` by the name that it looks up in embedding files; features are on ``device``.

    Raises:
        HostError: the CLIP has no encoder, or one whose tokenizer reads no embedding files.
    """
    keys = {attribute: key for key, attribute in tokenizer_attributes(clip.tokenizer).items()}
    encoders: dict[str, ComfyTokenTable] = {}
    for name, part in clip.cond_stage_model.named_children():
        key = keys.get(name, name if name in keys.values() else None)
        if isinstance(part, SDClipModel):
            if key is None:
                raise _not_prompted(clip, f"its text encoder {name} has no tokenizer that reads embedding files")
            tower = isinstance(part.transformer, comfy.clip_model.CLIPTextModel)
            encoders[key] = (ComfyTextEncoder if tower else ComfyTokenTable)(clip, key, part, device)
        elif hasattr(part, "transformer") or hasattr(part, "encode_token_weights"):
            raise _not_prompted(clip, f"its text encoder {name}, a {type(part).__name__}, takes no vectors in prompts")
    if not encoders:
        raise _not_prompted(clip, "it has no text encoder that takes vectors in prompts")
    return encoders


def tokenizer_attributes(tokenizer: Any) -> dict[str, str]:
    """Names of the attributes of a CLIP's tokenizer that are tokenizers, by the key that they look up in embedding files."""
    return {
        part.embedding_key: attribute for attribute, part in vars(tokenizer).items() if isinstance(part, SDTokenizer)
    }


def has_only_clip_towers(clip: Any) -> bool:
    """Whether it is the CLIP of Stable Diffusion 1.x, 2.x or SDXL, whose prompts only CLIP's text towers of 77 tokens encode."""
    model = clip.cond_stage_model
    towers = {name for name, part in model.named_children() if isinstance(part, SDClipModel)}
    return isinstance(model, (SD1ClipModel, SDXLClipModel)) and towers in _COMBINATIONS


def _not_prompted(clip: Any, reason: str) -> HostError:
    kind = type(clip.cond_stage_model).__name__
    return HostError(f"the CLIP connected here ({kind}) cannot be prompted with tokens: {reason}")


class ComfyTokenTable:
    """Tokenizer and token table of one text encoder of a ``comfy.sd.CLIP``."""

    def __init__(self, clip: Any, name: str, model: Any, device: torch.device):
        self.name, self.device, self._model, self._patcher = name, device, model, clip.patcher
        self._tokenizer: Any = getattr(clip.tokenizer, tokenizer_attributes(clip.tokenizer)[name])
        self.vocabulary_size, self.width = self._table.weight.shape

    def tokenize(self, text: str) -> list[int]:
        tokenizer = self._tokenizer
        end = -1 if tokenizer.tokenizer_adds_end_token else None
        return [int(i) for i in tokenizer.tokenizer(text)["input_ids"][tokenizer.tokens_start : end]]

    def embed(self, ids: Tensor) -> Tensor:
        # dynamic VRAM would cast the whole table on the CPU at each lookup
        home = self._patcher.load_device if is_paged(self._table) else self._table.weight.device
        return self._table(ids.to(home), out_dtype=torch.float32).to(ids.device)

    @property
    def _table(self) -> Any:
        return self._model.transformer.get_input_embeddings()


class ComfyTextEncoder(ComfyTokenTable):
    """One of CLIP's text towers, with its LoRA patches and clip-skip."""

    def __init__(self, clip: Any, name: str, model: Any, device: torch.device):
        super().__init__(clip, name, model, device)
        self._layer = _layer(self._model, clip.layer_idx)
        self.bos_token_id, self.eos_token_id = int(self._tokenizer.start_token), int(self._tokenizer.end_token)
        self.pad_token_id, self.length = int(self._tokenizer.pad_token), int(self._tokenizer.max_length)

    def encode(self, ids: Tensor, embeds: Tensor) -> TextFeatures:
        comfy.model_management.throw_exception_if_processing_interrupted()
        end = (ids[:, 1:] == self.eos_token_id).int().argmax(1) + 1  # the first one: padding may be the same id
        with self._positions(ids.shape[1]), out_of_place() if torch.is_grad_enabled() else nullcontext():
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
            pooled=pooled.float().to(self.device),
        )

    def _positions(self, length: int) -> AbstractContextManager[None]:
        """Shorten the position table to the prompts' length, since ComfyUI's tower adds all positions."""
        parameters = self._model.transformer.text_model.embeddings.position_embedding._parameters
        if length == len(parameters["weight"]):
            return nullcontext()
        return patched(parameters, "weight", nn.Parameter(parameters["weight"][:length], requires_grad=False))


def _layer(model: Any, clip_skip: int | None) -> int | None:
    """The layer that the denoiser attends to, as ComfyUI chooses it; None for the last.

    A copy on the same weights is queried, since ComfyUI's versions differ where a model has no such layer.
    """
    probe = copy.copy(model)
    probe.reset_clip_options()
    if clip_skip is not None:
        probe.set_clip_options({"layer": clip_skip})
    # newer than 0.3.64; ComfyUI sets it before it encodes, which chooses the layer again
    if hasattr(probe, "execution_device"):
        probe.set_clip_options({"execution_device": None})
    return probe.layer_idx if probe.layer == "hidden" else None
