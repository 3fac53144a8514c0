"""Synthetic data sets of the benchmark."""

import argparse

import pytest
import torch

from mcti_core.cli import benchmark
from mcti_core.pocket import characters
from mcti_core.pocket.characters import character_dataset
from mcti_core.pocket.glyphs import INKS, PAPERS
from mcti_core.pocket.textures import texture_dataset


def test_characters_of_a_class_are_alike_and_of_two_are_not():
    """By the lines alone, before they have a style."""
    first, again = character_dataset(3, 4), character_dataset(3, 4)
    assert len(first) == 12
    assert torch.bincount(first.labels).tolist() == [4, 4, 4]
    assert all(torch.equal(a, b) for a, b in zip(first.images, again.images, strict=True))
    assert len({image.numpy().tobytes() for image in first.images}) == 12
    assert all(image.shape == (3, 64, 64) and image.min() >= 0 and image.max() <= 1 for image in first.images)
    strokes = torch.rand(2, 3, 2, generator=torch.Generator().manual_seed(0))
    drawn, moved, other = (characters._drawn(each) for each in (strokes, strokes + 0.01, strokes.flip(2)))
    assert ((drawn > 0) & (moved > 0)).sum() > 0.4 * (drawn > 0).sum() > ((drawn > 0) & (other > 0)).sum()


def test_textures_have_their_colours_and_patterns():
    data = texture_dataset(3)
    assert len(data.classes) == 12
    assert len(data) == 36
    for image, label in zip(data.images, data.labels.tolist(), strict=True):
        ink, *_, paper, _ = data.classes[label].split()
        for side, wanted in ((0, INKS[ink]), (1, PAPERS[paper])):
            distances = (image.flatten(1).T - torch.tensor(wanted)).abs().amax(1)
            assert distances.min() < 0.1, (data.classes[label], side)
    stripes, columns = data.images[0], data.images[6]
    assert stripes.std(1).mean() > 2 * stripes.std(2).mean()  # lines across
    assert columns.std(2).mean() > 2 * columns.std(1).mean()


@pytest.mark.parametrize("name", ["characters", "textures"])
def test_benchmark_finds_what_is_built_in(name, monkeypatch):
    monkeypatch.setattr(benchmark, "character_dataset", lambda: character_dataset(2, 3))
    found = benchmark._load(name, argparse.Namespace(data=None), download=False)
    assert (found.name, found.own_test) == (name, False)
    assert len(found.classes) == {"characters": 2, "textures": 12}[name]
