import pytest
import torch

from benchmarks.decision_tables import Table
from benchmarks.decisions import budget_rows, cascade_rows, curve, first, orders, sequential, staged
from benchmarks.lines import draw_panels
from mcti_core.diffusion import spread_sigmas


@pytest.fixture
def table():
    generator = torch.Generator().manual_seed(0)
    errors = torch.rand(12, 10, 32, generator=generator) + 0.3 * torch.rand(12, 10, 1, generator=generator)
    return Table(errors, errors.mean(2).argmin(1), torch.randn(12, 10, generator=generator))


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
    assert draw_panels([curve("noise", list(rows.values()))]).width > 300
