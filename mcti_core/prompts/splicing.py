"""Prompts with learned vectors: text -> token ids and slots -> spliced embeddings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import TokenError
from ..escaping import has_surrogates
from ..hosts.base import WHOLE_PROMPT, Host, HostPrompts, TextEncoder
from ..hosts.features import Features, TextFeatures, on_device
from ..tokens.encoders import CLIP_FOR_CLASSIFYING, describe_encoders
from .syntax import Piece, parse_prompt

__all__ = [
    "AnyPrompts", "Prompts", "check_encoders", "check_templates", "conditioning", "encode_prompts", "host_prompts",
    "host_templates", "plain_prompts", "splice", "template_prompts",
]  # fmt: skip

_NO_VECTOR = -1


@dataclass(frozen=True)
class Prompts:
    """B tokenized prompts of one text encoder, with slots for learned vectors."""

    ids: Tensor
    """(B, L) int64; at a slot, the begin-of-text id, which unlike padding cannot be mistaken for the end."""
    slots: Tensor
    """(B, L) int64 index of the row's vector at this position, or -1 for the token table's own."""
    end: Tensor
    """(B,) int64 position of end-of-text."""
    weights: Tensor | None = None
    """(B, L) float32 factor of the context's difference from the empty prompt's context; None if all are 1."""

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, index: Tensor) -> Prompts:
        weights = None if self.weights is None else self.weights[index]
        return Prompts(self.ids[index], self.slots[index], self.end[index], weights)

    def without_padding(self) -> Prompts:
        """Cut after the longest prompt's end-of-text. Text features do not change; the denoiser's context does."""
        length = int(self.end.max()) + 1
        weights = None if self.weights is None else self.weights[:, :length]
        return Prompts(self.ids[:, :length], self.slots[:, :length], self.end, weights)

    def pooling_position(self, pooling: str) -> Tensor:
        """(B,) position of the text feature: of end-of-text for ``"eot"``; of the last learned vector, if any, for ``"token"``."""
        if pooling == "eot":
            return self.end
        is_slot = self.slots > _NO_VECTOR
        return torch.where(is_slot.any(1), (torch.arange(is_slot.shape[1]) * is_slot).argmax(1), self.end)


AnyPrompts = Prompts | HostPrompts


def check_templates(templates: Sequence[str]) -> None:
    """Raise a ``TokenError`` unless each template contains ``{}`` exactly once, among plain words."""
    for template in templates:
        if template.count("{}") != 1:
            raise TokenError(f"template {template!r} must contain {{}} exactly once, in place of the token")
        if has_surrogates(template):
            raise TokenError(
                f"template {template!r} contains an invalid character (a lone surrogate); remove it, or type it again"
            )
        if re.search(r"embedding\s*:\s*\{|\([^()]*:\s*[-+.\d]+\s*\)|\bBREAK\b", template):
            raise TokenError(
                f"template {template!r} contains a reference, a weight or other syntax; write plain words around {{}}"
            )


def template_prompts(encoder: TextEncoder, templates: Sequence[str], num_vectors: int) -> Prompts:
    """One prompt per template, with its ``{}`` replaced by slots. Raises: TokenError: as ``check_templates``, or too long."""
    check_templates(templates)
    return _lay_out(encoder, [_filled(template, 0) for template in templates], num_vectors, templates)


def host_templates(host: Host, templates: Sequence[str], num_vectors: int) -> dict[str, AnyPrompts]:
    """One prompt per template for each of the host's text encoders, or for the host's own encoding and the CLIP space's encoder.

    Raises:
        TokenError: as ``template_prompts``, or an encoder does not read all of a prompt's vectors.
    """
    if host.prompts is None:
        return {name: template_prompts(encoder, templates, num_vectors) for name, encoder in host.text.items()}
    check_templates(templates)
    pieces = [_filled(template, 0) for template in templates]
    prompts: dict[str, AnyPrompts] = {WHOLE_PROMPT: host.prompts.tokenize(pieces, num_vectors)}
    if host.clip is not None:
        prompts[host.clip.encoder] = template_prompts(host.text[host.clip.encoder], templates, num_vectors)
    return prompts


def host_prompts(
    host: Host, texts: Sequence[str | int], names: Sequence[str], num_vectors: int, labels: Sequence[str] = (), *, template: str = ""
) -> dict[str, AnyPrompts]:  # fmt: skip
    """Free prompts for ``conditioning``, with tokens of the set and weighted words, see ``prompts.syntax.parse_prompt``.

    An index instead of a text is that class in ``template``, which is plain words. Slots index all C * V vectors.

    Raises:
        TokenError: as ``parse_prompt``, there is no such class, or a prompt is too long for the encoder.
    """
    if unknown := [text for text in texts if isinstance(text, int) and not 0 <= text < len(names)]:
        raise TokenError(f"there is no class {unknown[0]}; the tokens have {len(names)}, counted from 0")
    known = tuple(names), tuple(labels)
    pieces = [_filled(template, text) if isinstance(text, int) else parse_prompt(text, *known) for text in texts]
    if host.prompts is not None:
        return {WHOLE_PROMPT: host.prompts.tokenize(pieces, num_vectors)}
    originals = [template if isinstance(text, int) else text for text in texts]
    return {name: _lay_out(encoder, pieces, num_vectors, originals) for name, encoder in host.text.items()}


def plain_prompts(encoder: TextEncoder, texts: Sequence[str]) -> Prompts:
    """Prompts without tokens, in which brackets and colons are plain characters. Raises: TokenError: one is too long."""
    return _lay_out(encoder, [[(text, 1.0)] for text in texts], 1, texts)


def _filled(template: str, index: int) -> list[Piece]:
    """A template's words, and the class in place of its ``{}``."""
    return [(index if part == "{}" else part, 1.0) for part in re.split(r"(\{\})", template) if part]


def _lay_out(encoder: TextEncoder, rows: Sequence[Sequence[Piece]], num_vectors: int, texts: Sequence[str]) -> Prompts:
    ids = torch.full((len(rows), encoder.length), encoder.pad_token_id)
    slots = torch.full_like(ids, _NO_VECTOR)
    weights = torch.ones(ids.shape)
    end = torch.zeros(len(rows), dtype=torch.long)
    for i, row in enumerate(rows):
        row_ids, row_slots, row_weights = [encoder.bos_token_id], [_NO_VECTOR], [1.0]
        for piece, weight in row:
            if isinstance(piece, str):
                piece_ids = encoder.tokenize(piece)
                row_slots += [_NO_VECTOR] * len(piece_ids)
            else:
                piece_ids = [encoder.bos_token_id] * num_vectors
                row_slots += range(piece * num_vectors, (piece + 1) * num_vectors)
            row_ids += piece_ids
            row_weights += [weight] * len(piece_ids)
        end[i] = length = len(row_ids)
        if length >= encoder.length:
            raise TokenError(f"prompt {texts[i]!r:.120} has {length - 1} tokens; at most {encoder.length - 2} fit")
        ids[i, : length + 1] = torch.tensor([*row_ids, encoder.eos_token_id])
        slots[i, :length] = torch.tensor(row_slots)
        weights[i, :length] = torch.tensor(row_weights)
    return Prompts(ids, slots, end, weights if (weights != 1).any() else None)


def splice(encoder: TextEncoder, prompts: Prompts, vectors: Tensor) -> Tensor:
    """Embed B prompts with each row's own vectors (B, M, d), or (1, M, d) for all rows, at its slots -> (B, L, d) float32.

    Gradients flow only to the vectors.
    """
    table = encoder.embed(on_device(prompts.ids, vectors.device))
    slots = on_device(prompts.slots, vectors.device)
    index = slots.clamp(min=0)[..., None].expand(-1, -1, vectors.shape[-1])
    spliced = vectors.expand(len(slots), -1, -1).gather(1, index)  # (B, L, d)
    return torch.where((slots > _NO_VECTOR)[..., None], spliced, table)


def conditioning(host: Host, prompts: Mapping[str, AnyPrompts], vectors: Mapping[str, Tensor]) -> dict[str, Features]:
    """Conditioning of the denoiser for B prompts; arguments as of ``encode_prompts``."""
    read = {name: prompts[name] for name in host.conditioned_by}
    return {name: features.conditioning() for name, features in encode_prompts(host, read, vectors).items()}


def encode_prompts(host: Host, prompts: Mapping[str, Any], vectors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Features of the same B prompts from each encoder in ``prompts``; other encoders do not run.

    Args:
        prompts: by encoder, and ``WHOLE_PROMPT`` for the host's own encoding. A denoiser needs ``Host.conditioned_by``; a text
            feature is read only from the CLIP space's encoder.
        vectors: by encoder, for all encoders; as in ``splice``.

    Returns:
        ``TextFeatures`` by encoder in the host's order, and ``Conditioning`` for ``WHOLE_PROMPT``.

    Raises:
        TokenError: the vectors are for other text encoders.
    """
    # vectors for the CLIP space's text tower are read only to classify
    check_encoders(host, vectors, unread=() if CLIP_FOR_CLASSIFYING in prompts else (CLIP_FOR_CLASSIFYING,))
    features: dict[str, Any] = {}
    if host.prompts is not None and WHOLE_PROMPT in prompts:
        features[WHOLE_PROMPT] = host.prompts.encode(prompts[WHOLE_PROMPT], vectors)
    for name, encoder in host.text.items():
        if name in prompts:
            text = _encode(host, encoder, prompts[name], vectors[name])
            features[name] = _apply_weights(host, encoder, prompts[name], text)
    return features


def _encode(host: Host, encoder: TextEncoder, prompts: Prompts, vectors: Tensor) -> TextFeatures:
    return encoder.encode(on_device(prompts.ids, host.device), splice(encoder, prompts, vectors))


def _apply_weights(host: Host, encoder: TextEncoder, prompts: Prompts, features: TextFeatures) -> TextFeatures:
    """Scale the difference of the context from the empty prompt's context at each weighted position.

    References: ``ClipTokenWeightEncoder.encode_token_weights`` in ComfyUI's comfy/sd1_clip.py.
    """
    if prompts.weights is None:
        return features
    length = prompts.ids.shape[1]
    empty_prompt = _lay_out(encoder, [()], 1, [""])
    empty_prompt = Prompts(empty_prompt.ids[:, :length], empty_prompt.slots[:, :length], empty_prompt.end)
    empty = _encode(host, encoder, empty_prompt, torch.zeros(1, 1, encoder.width, device=host.device)).context
    weights = on_device(prompts.weights, host.device)[..., None]
    context = torch.where(weights == 1, features.context, (features.context - empty) * weights + empty)
    return replace(features, context=context)


def check_encoders(host: Host, vectors: Mapping[str, Tensor], unread: Sequence[str] = ()) -> None:
    """Raise a ``TokenError`` unless there are vectors for all of the host's text encoders but ``unread``, of their widths."""
    widths = {name: v.shape[-1] for name, v in vectors.items() if name not in unread}
    model_widths = {name: encoder.width for name, encoder in host.text.items() if name not in unread}
    if widths != model_widths:
        raise TokenError(
            f"the tokens are for {describe_encoders(widths)}; this model has {describe_encoders(model_widths)}"
        )
