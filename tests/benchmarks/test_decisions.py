import pytest
import torch

from benchmarks.decision_tables import Table
from benchmarks.decisions import budget_rows, cascade_rows, curve, first, orders, sequential, staged, standard_error
from mcti_core.classifiers.cascade import CascadeClassifier
from mcti_core.classifiers.clip import ClipClassifier
from mcti_core.classifiers.diffusion import DiffusionClassifier
from mcti_core.noise_levels import spread_sigmas


@pytest.fixture
def table():
    generator = torch.Generator().manual_seed(0)
    errors = torch.rand(12, 10, 32, generator=generator) + 0.3 * torch.rand(12, 10, 1, generator=generator)
    clip = torch.randn(12, 10, generator=generator)
    return Table(errors, errors.mean(2).argmin(1), clip, torch.arange(12) // 2)


def test_strategies_count_what_they_spend(table):
    full = table.errors.mean(2).argmin(1)
    decided, spent = sequential(0)(table.errors)
    assert torch.equal(decided, full)
    assert (spent == 320).all()
    assert torch.equal(first(32)(table.errors)[0], full)
    assert (first(8)(table.errors)[1] == 80).all()
    assert (staged(table.errors)[1] == 10 * 6 + 4 * 6 + 2 * 12).all()


@pytest.mark.parametrize("pairs", [24, 32])
def test_orders_are_orders_and_the_first_is_the_classifiers(pairs):
    found = orders(pairs, 8)
    assert len(found) == 8
    assert found[0].tolist() == list(range(pairs))
    assert all(sorted(order.tolist()) == list(range(pairs)) for order in found)
    assert len({tuple(order.tolist()) for order in found}) == 8


def test_every_order_is_spread_over_the_noise_levels():
    levels = spread_sigmas(torch.arange(32_000.0), 32, torch.Generator().manual_seed(0))
    for order in orders(32, 8):
        for count in (2, 4, 8, 16):
            turned = levels[order[:count]].sort().values / 32_000
            gaps = torch.cat([turned[1:], turned[:1] + 1]) - turned
            assert torch.allclose(gaps, torch.full((count,), 1 / count), atol=1e-3)


def test_rows_and_their_curve(table):
    rows = {row["strategy"]: row for row in budget_rows([table], 4)}
    whole = rows["all classes, 32 pairs"]
    assert (whole["same decision"], whole["evaluations"], whole["right"]) == (100, 100, 100)
    assert rows["sequential, error 0.5"]["evaluations"] < rows["sequential, error 0.01"]["evaluations"] < 100
    ways = {row["classifier"]: row["mean"] for row in cascade_rows([table])}
    assert ways["diffusion"] == 100
    curves = curve("noise", list(rows.values())).series
    assert max(x for points in curves.values() for x, _ in points) == 100
    assert dict(curves["all classes, fewer pairs"])[100] == 0


def test_what_is_replayed_is_what_the_library_does(tiny_host, tokens, cache, dataset):
    """The sequential test, and the cascade with its usual weight."""
    full = DiffusionClassifier(tiny_host, tokens, num_trials=32, alpha=0)
    errors, _ = full.compare(cache.latents[:, 0], torch.ones(len(cache), 3, dtype=torch.bool))
    decided, spent = sequential(0.1)(errors)
    scores = DiffusionClassifier(tiny_host, tokens, num_trials=32, alpha=0.1).score_latents(cache.latents[:, 0])
    assert torch.equal(scores.logits.argmax(1), decided)
    assert torch.equal(scores.evaluations, spent)
    assert spent.sum() < errors.numel()

    images, clip = torch.stack(list(dataset.load(32))), ClipClassifier(tiny_host, tokens)
    answers = CascadeClassifier(clip, full).scores(images).logits.argmax(1)
    table = Table(errors, answers, clip.scores(images).logits, torch.arange(len(cache)))  # its answers are the truth
    assert {row["classifier"]: row["mean"] for row in cascade_rows([table])}["CLIP + 2 x diffusion, in doubt"] == 100


def test_an_image_asked_twice_is_not_two_images():
    values = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    once = standard_error(values, torch.arange(6))
    assert once == pytest.approx(values.std(correction=0).item() / 6**0.5)
    assert standard_error(values.repeat(2), torch.arange(6).repeat(2)) == pytest.approx(once)
    assert standard_error(values.repeat(2), torch.arange(12)) == pytest.approx(once / 2**0.5)
