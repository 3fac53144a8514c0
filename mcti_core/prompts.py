"""Prompts with learned vectors in them: text -> token ids and spots -> spliced embeddings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import TokenError
from .hosts.base import Host, TextEncoder, TextFeatures, on_device

__all__ = ["Prompts", "encode_prompts", "named_prompts", "splice", "template_prompts"]

_NO_VECTOR = -1


@dataclass(frozen=True)
class Prompts:
    """B tokenized prompts of one text encoder, with spots for learned vectors."""

    ids: Tensor
    """(B, L) int64; at a spot, the id of the beginning, which cannot be taken for the end as padding can."""
    spots: Tensor
    """(B, L) int64: which of the row's vectors stands here, or -1 for the token table's own."""
    end: Tensor
    """(B,) int64 position of end-of-text."""

    def rows(self, index: Tensor) -> Prompts:
        return Prompts(self.ids[index], self.spots[index], self.end[index])

    def without_padding(self) -> Prompts:
        """Cut after the longest prompt's end-of-text. Text features are the same; what the denoiser attends to is not."""
        length = int(self.end.max()) + 1
        return Prompts(self.ids[:, :length], self.spots[:, :length], self.end)

    def pooled_at(self, pooling: str) -> Tensor:
        """(B,) where the text feature is read: ``"eot"`` or ``"token"``."""
        return self.token if pooling == "token" else self.end

    @property
    def token(self) -> Tensor:
        """(B,) position of the last learned vector; end-of-text where a prompt has none."""
        position = torch.arange(self.spots.shape[1]) * (self.spots > _NO_VECTOR)
        return torch.where((self.spots > _NO_VECTOR).any(1), position.argmax(1), self.end)


def template_prompts(encoder: TextEncoder, templates: Sequence[str], vectors: int) -> Prompts:
    """One prompt a template, its ``{}`` replaced by ``vectors`` spots.

    Raises:
        TokenError: a template without exactly one ``{}``, or too long for the encoder.
    """
    for template in templates:
        if template.count("{}") != 1:
            raise TokenError(f"template {template!r} must hold {{}} exactly once, where the token goes")
    parts = [[part for part in re.split(r"(\{\})", template) if part] for template in templates]
    return _lay_out(
        encoder, [[list(range(vectors)) if part == "{}" else part for part in row] for row in parts], templates
    )


def named_prompts(encoder: TextEncoder, texts: Sequence[str], names: Sequence[str], vectors: int) -> Prompts:
    """Free prompts in which ``embedding:<name>`` or ``{name}`` is a token of the set; spots count through all C * V vectors.

    Raises:
        TokenError: an unknown name, or a prompt too long for the encoder.
    """
    index = {name.casefold(): i for i, name in enumerate(names)}
    longest_first = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
    known = rf"embedding:(?:{longest_first})(?![\w-])|" if names else ""
    reference = re.compile(rf"({known}embedding:[\w-]+|\{{[^{{}}]*\}})", re.IGNORECASE)

    def parse(text: str) -> list[str | list[int]]:
        row: list[str | list[int]] = []
        for part in reference.split(text):
            if not (part.lower().startswith("embedding:") or (part.startswith("{") and part.endswith("}"))):
                row.append(part)
                continue
            name = part[1:-1] if part.startswith("{") else part[len("embedding:") :]
            if name.casefold() not in index:
                raise TokenError(
                    f"prompt {text!r} names {name!r}, which is not a token here; there are: {', '.join(names)}"
                )
            first = index[name.casefold()] * vectors
            row.append(list(range(first, first + vectors)))
        return row

    return _lay_out(encoder, [parse(text) for text in texts], texts)


def _lay_out(encoder: TextEncoder, rows: Sequence[Sequence[str | list[int]]], texts: Sequence[str]) -> Prompts:
    ids = torch.full((len(rows), encoder.length), encoder.pad)
    spots = torch.full_like(ids, _NO_VECTOR)
    end = torch.zeros(len(rows), dtype=torch.long)
    for i, row in enumerate(rows):
        line, at = [encoder.begin], [_NO_VECTOR]
        for part in row:
            new = encoder.tokenize(part) if isinstance(part, str) else [encoder.begin] * len(part)
            line += new
            at += [_NO_VECTOR] * len(new) if isinstance(part, str) else part
        if len(line) >= encoder.length:
            raise TokenError(f"prompt {texts[i]!r} has {len(line) - 1} tokens; at most {encoder.length - 2} fit")
        ids[i, : len(line)] = torch.tensor(line)
        ids[i, len(line)] = encoder.end
        spots[i, : len(line)] = torch.tensor(at)
        end[i] = len(line)
    return Prompts(ids, spots, end)


def splice(encoder: TextEncoder, prompts: Prompts, vectors: Tensor) -> Tensor:
    """Embed prompts with each row's own vectors at its spots.

    Args:
        prompts: B prompts.
        vectors: (B, M, d) or (1, M, d) for all rows; gradients flow to them and nowhere else.

    Returns:
        (B, L, d) float32.
    """
    table = encoder.embed(on_device(prompts.ids, vectors.device))
    spots = on_device(prompts.spots, vectors.device)
    rows = vectors.expand(len(spots), -1, -1)
    chosen = rows.gather(1, spots.clamp(min=0)[..., None].expand(-1, -1, vectors.shape[-1]))  # (B, L, d)
    return torch.where((spots > _NO_VECTOR)[..., None], chosen, table)


def encode_prompts(
    host: Host, prompts: Mapping[str, Prompts], vectors: Mapping[str, Tensor]
) -> dict[str, TextFeatures]:
    """Features of the same B prompts from each encoder that has them in ``prompts``; the others are not run.

    Args:
        prompts: by encoder. A denoiser wants all encoders' features; a text feature is read from one, the CLIP space's.
        vectors: by encoder, of all of them; as in ``splice``.

    Returns:
        By encoder, in the host's order.

    Raises:
        TokenError: the vectors are for other text encoders.
    """
    ours = {name: v.shape[-1] for name, v in vectors.items()}
    theirs = {name: encoder.width for name, encoder in host.text.items()}
    if ours != theirs:
        raise TokenError(f"the tokens are for {_widths(ours)}; this model has {_widths(theirs)}")
    return {
        name: encoder.encode(on_device(prompts[name].ids, host.device), splice(encoder, prompts[name], vectors[name]))
        for name, encoder in host.text.items()
        if name in prompts
    }


def _widths(encoders: Mapping[str, int]) -> str:
    return " and ".join(f"{name}, {width} wide" for name, width in encoders.items())
