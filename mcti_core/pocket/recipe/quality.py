"""Measure how well the pocket checkpoint knows its base words, on drawings by people it was not trained on."""

from __future__ import annotations

from pathlib import Path

import torch

from ...classifiers.clip import ClipClassifier
from ...classifiers.diffusion import DiffusionClassifier
from ...hosts.base import Host
from ...hosts.diffusers.host import load_host
from ...tokens.token_set import TokenSet
from .shapes import Glyphs

__all__ = ["pocket_figures", "word_tokens"]


def pocket_figures(
    folder: Path, glyphs: Glyphs, words: list[str], *, groups: int = 3, images: int = 100
) -> dict[str, float]:
    """Accuracy for 10 random base words with CLIP and the diffusion classifier, averaged over ``groups`` choices of words."""
    host = load_host(folder, folder / "clip")
    clip: list[float] = []
    diffusion: list[float] = []
    for group in range(groups):
        generator = torch.Generator().manual_seed(100 + group)
        word_indices = torch.randperm(len(words), generator=generator)[:10]
        tokens = word_tokens(host, [words[i] for i in word_indices.tolist()])
        labels = torch.arange(images) % len(word_indices)
        pictures, _, _ = glyphs.draw(word_indices[labels], generator, test=True)
        for scores, classifier in (
            (clip, ClipClassifier(host, tokens)),
            (diffusion, DiffusionClassifier(host, tokens)),
        ):
            scores.append((classifier.scores(pictures).logits.argmax(1) == labels).float().mean().item())
    return {"base_words_clip": round(sum(clip) / groups, 4), "base_words_diffusion": round(sum(diffusion) / groups, 4)}


def word_tokens(host: Host, words: list[str]) -> TokenSet:
    """A token set of existing words, with each word's own embedding."""
    encoder = host.text["clip_l"]
    rows = [encoder.embed(torch.tensor(encoder.tokenize(word))) for word in words]  # each (1, d)
    return TokenSet(tuple(words), {"clip_l": torch.stack(rows)}, base_model=host.name)
