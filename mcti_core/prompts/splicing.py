"""Prompts with learned vectors: text -> token ids and slots -> spliced embeddings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, overload

import torch
from torch import Tensor

from ..errors import TokenError
from ..escaping import has_surrogates
from ..hosts.base import WHOLE_PROMPT, Host, HostPrompts, TextEncoder
from ..hosts.features import Features, TextFeatures, on_device
from ..tokens.encoders import CLIP_TWIN
from .syntax import Piece, parse_prompt

__all__ = [
    "AnyPrompts",
    "Prompts",
    "check_templates",
    "conditioning",
    "encode_prompts",
    "host_prompts",
    "host_templates",
    "named_prompts",
    "plain_prompts",
    "splice",
    "template_prompts",
]

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
    """(B, L) float32 weight of the context's difference from the empty prompt's context; None if all weights are 1."""

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
        """(B,) position of the text feature, for ``"eot"`` or ``"token"``."""
        return self.token_position if pooling == "token" else self.end

    @property
    def token_position(self) -> Tensor:
        """(B,) position of the last learned vector; end-of-text for a prompt without one."""
        position = torch.arange(self.slots.shape[1]) * (self.slots > _NO_VECTOR)
        return torch.where((self.slots > _NO_VECTOR).any(1), position.argmax(1), self.end)


AnyPrompts = Prompts | HostPrompts


def check_templates(templates: Sequence[str]) -> None:
    """Raise a ``TokenError`` unless each template contains ``{}`` exactly once, among plain words."""
    for template in templates:
        if template.count("{}") != 1:
            raise TokenError(f"template {template!r} must contain {{}} exactly once, in place of the token")
        if has_surrogates(template):
            raise TokenError(f"template {template!r} contains half a character; remove it, or type it again")
        if re.search(r"embedding\s*:\s*\{|\([^()]*:\s*[-+.\d]+\s*\)|\bBREAK\b", template):
            raise TokenError(
                f"template {template!r} contains embedding:, a weight or other prompt syntax; write plain words around {{}}"
            )


def template_prompts(encoder: TextEncoder, templates: Sequence[str], num_vectors: int) -> Prompts:
    """One prompt per template, with its ``{}`` replaced by ``num_vectors`` slots.

    Raises:
        TokenError: a template without exactly one ``{}``, or too long for the encoder.
    """
    check_templates(templates)
    return _lay_out(encoder, [_filled(template, 0) for template in templates], num_vectors, templates)


def named_prompts(
    encoder: TextEncoder, texts: Sequence[str | int], names: Sequence[str], num_vectors: int, labels: Sequence[str] = (),
    *, template: str = "",
) -> Prompts:  # fmt: skip
    """Free prompts with tokens of the set and weighted words, see ``prompts.syntax.parse_prompt``.

    An index instead of a text is that class in ``template``, which is plain words. Slots index all C * V vectors.

    Raises:
        TokenError: as ``parse_prompt``, or a prompt is too long for the encoder.
    """
    rows = _pieces(texts, names, labels, template)
    return _lay_out(encoder, rows, num_vectors, [template if isinstance(text, int) else text for text in texts])


def host_templates(host: Host, templates: Sequence[str], num_vectors: int) -> dict[str, AnyPrompts]:
    """One prompt per template for each of the host's text encoders, or for the host's own encoding and the CLIP space's encoder.

    Raises:
        TokenError: as ``template_prompts``, or an encoder does not read all of a prompt's vectors.
    """
    check_templates(templates)
    own = (
        {}
        if host.prompts is None
        else {WHOLE_PROMPT: host.prompts.tokenize([_filled(t, 0) for t in templates], num_vectors)}
    )
    names = list(host.text) if host.prompts is None else [] if host.clip is None else [host.clip.encoder]
    return {**own, **{name: template_prompts(host.text[name], templates, num_vectors) for name in names}}


def host_prompts(
    host: Host, texts: Sequence[str | int], names: Sequence[str], num_vectors: int, labels: Sequence[str] = (), *, template: str = ""
) -> dict[str, AnyPrompts]:  # fmt: skip
    """Free prompts for ``conditioning``; see ``named_prompts``."""
    if host.prompts is None:
        return {
            name: named_prompts(encoder, texts, names, num_vectors, labels, template=template)
            for name, encoder in host.text.items()
        }
    return {WHOLE_PROMPT: host.prompts.tokenize(_pieces(texts, names, labels, template), num_vectors)}


def _pieces(
    texts: Sequence[str | int], names: Sequence[str], labels: Sequence[str], template: str
) -> list[Sequence[Piece]]:
    if wrong := [text for text in texts if isinstance(text, int) and not 0 <= text < len(names)]:
        raise TokenError(f"there is no class {wrong[0]}; the tokens have {len(names)}, counted from 0")
    return [
        _filled(template, text) if isinstance(text, int) else parse_prompt(text, tuple(names), tuple(labels))
        for text in texts
    ]


def plain_prompts(encoder: TextEncoder, texts: Sequence[str]) -> Prompts:
    """Prompts without tokens, in which brackets and colons are plain characters.

    Raises:
        TokenError: a prompt is too long for the encoder.
    """
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
        line, at, weighed = [encoder.bos_token_id], [_NO_VECTOR], [1.0]
        for piece, weight in row:
            own = list(range(piece * num_vectors, (piece + 1) * num_vectors)) if isinstance(piece, int) else None
            new = encoder.tokenize(piece) if isinstance(piece, str) else [encoder.bos_token_id] * num_vectors
            line += new
            at += own or [_NO_VECTOR] * len(new)
            weighed += [weight] * len(new)
        if len(line) >= encoder.length:
            raise TokenError(f"prompt {texts[i]!r:.120} has {len(line) - 1} tokens; at most {encoder.length - 2} fit")
        ids[i, : len(line)] = torch.tensor(line)
        ids[i, len(line)] = encoder.eos_token_id
        slots[i, : len(line)] = torch.tensor(at)
        weights[i, : len(line)] = torch.tensor(weighed)
        end[i] = len(line)
    return Prompts(ids, slots, end, weights if (weights != 1).any() else None)


def splice(encoder: TextEncoder, prompts: Prompts, vectors: Tensor) -> Tensor:
    """Embed prompts with each row's own vectors at its slots.

    Args:
        prompts: B prompts.
        vectors: (B, M, d), or (1, M, d) for all rows; gradients flow only to them.

    Returns:
        (B, L, d) float32.
    """
    table = encoder.embed(on_device(prompts.ids, vectors.device))
    slots = on_device(prompts.slots, vectors.device)
    rows = vectors.expand(len(slots), -1, -1)
    chosen = rows.gather(1, slots.clamp(min=0)[..., None].expand(-1, -1, vectors.shape[-1]))  # (B, L, d)
    return torch.where((slots > _NO_VECTOR)[..., None], chosen, table)


def conditioning(host: Host, prompts: Mapping[str, AnyPrompts], vectors: Mapping[str, Tensor]) -> dict[str, Features]:
    """Conditioning of the denoiser for B prompts; arguments as of ``encode_prompts``."""
    own = {name: prompts[name] for name in host.conditioned_by}
    return {name: features.conditioning() for name, features in encode_prompts(host, own, vectors).items()}


@overload
def encode_prompts(
    host: Host, prompts: Mapping[str, Prompts], vectors: Mapping[str, Tensor]
) -> dict[str, TextFeatures]: ...
@overload
def encode_prompts(
    host: Host, prompts: Mapping[str, AnyPrompts], vectors: Mapping[str, Tensor]
) -> dict[str, Features]: ...
def encode_prompts(host: Host, prompts: Mapping[str, Any], vectors: Mapping[str, Tensor]) -> Any:
    """Features of the same B prompts from each encoder in ``prompts``; other encoders do not run.

    Args:
        prompts: by encoder, and ``WHOLE_PROMPT`` for the host's own encoding. A denoiser needs ``Host.conditioned_by``; a text feature
            is read only from the CLIP space's encoder.
        vectors: by encoder, for all encoders; as in ``splice``.

    Returns:
        By encoder, in the host's order.

    Raises:
        TokenError: the vectors are for other text encoders.
    """
    unread = () if CLIP_TWIN in prompts else (CLIP_TWIN,)  # the twin's vectors are only for classifying
    ours = {name: v.shape[-1] for name, v in vectors.items() if name not in unread}
    theirs = {name: encoder.width for name, encoder in host.text.items() if name not in unread}
    if ours != theirs:
        raise TokenError(f"the tokens are for {_widths(ours)}; this model has {_widths(theirs)}")
    whole = (
        {}
        if host.prompts is None or WHOLE_PROMPT not in prompts
        else {WHOLE_PROMPT: host.prompts.encode(prompts[WHOLE_PROMPT], vectors)}
    )
    return whole | {
        name: _weighed(encoder, prompts[name], _encode(host, encoder, prompts[name], vectors[name]), host)
        for name, encoder in host.text.items()
        if name in prompts
    }


def _encode(host: Host, encoder: TextEncoder, prompts: Prompts, vectors: Tensor) -> TextFeatures:
    return encoder.encode(on_device(prompts.ids, host.device), splice(encoder, prompts, vectors))


def _weighed(encoder: TextEncoder, prompts: Prompts, features: TextFeatures, host: Host) -> TextFeatures:
    """Scale the difference of the context from the empty prompt's context at each weighted position.

    References: ``ClipTokenWeightEncoder.encode_token_weights`` in ComfyUI's comfy/sd1_clip.py.
    """
    if prompts.weights is None:
        return features
    empty = _lay_out(encoder, [()], 1, [""])
    length = prompts.ids.shape[1]
    cut = Prompts(empty.ids[:, :length], empty.slots[:, :length], empty.end)
    nothing = _encode(host, encoder, cut, torch.zeros(1, 1, encoder.width, device=host.device)).context
    weights = on_device(prompts.weights, host.device)[..., None]
    context = torch.where(weights == 1, features.context, (features.context - nothing) * weights + nothing)
    return replace(features, context=context)


def _widths(encoders: Mapping[str, int]) -> str:
    return " and ".join(f"{name}, {width} wide" for name, width in encoders.items())
