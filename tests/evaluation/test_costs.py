from dataclasses import replace

import pytest

from mcti_core.evaluation.cells import Cell, measure
from mcti_core.evaluation.costs import Cost, cost_of, measured_rates
from mcti_core.evaluation.recipes import RECIPES, RELEASED

RATES = {"image": 0.5, "evaluation": 0.25, "TI": 2.0, "MC-TI": 3.0, RELEASED: 1.0}


class Counting:
    """A denoiser that counts what goes through it, with and without gradients."""

    def __init__(self, inner):
        self.inner, self.trained, self.evaluated = inner, 0, 0
        self.sigmas, self.noised, self.weight = inner.sigmas, inner.noised, inner.weight

    def denoise(self, noised, sigma, text):
        if any(features.context.requires_grad for features in text.values()):
            self.trained += len(noised)
        else:
            self.evaluated += len(noised)
        return self.inner.denoise(noised, sigma, text)


@pytest.mark.parametrize("run", RECIPES)
def test_cost_is_what_a_cell_takes(task, run):
    counting = Counting(task.host.denoiser)
    watched = replace(task, host=replace(task.host, denoiser=counting))
    cell, steps = Cell("toy", 2, 0, run), []
    measure(watched, cell, steps.append)
    cost = cost_of(cell, watched, RATES)
    assert (cost.images, cost.steps, cost.trained) == (8, len(steps), counting.trained)
    drawn = 0 if run == RELEASED else 4 * 3 * 2 * 2  # classes, drawings, steps, guided
    tried = 0 if run == RELEASED else 8 * 4 * 2  # sample, classes, pairs: of few pairs no class is stopped
    assert counting.evaluated == cost.evaluated == drawn + tried
    assert cost.seconds == pytest.approx(8 * 0.5 + len(steps) * RATES[run] + (drawn + tried) * 0.25)


def test_costs_add_up_and_baselines_count_too(task):
    assert Cost(1, 2, 3, 4, 5.0) + Cost(10, 20, 30, 40, 50.0) == Cost(11, 22, 33, 44, 55.0)
    assert Cost(trained=3, evaluated=4).calls == 7
    baselines = cost_of(Cell("toy", 2, 0, "baselines"), task, RATES)
    assert (baselines, baselines.calls) == (Cost(images=8, seconds=4.0), 1)


def test_rates_are_measured_for_what_is_asked(task):
    rates = measured_rates(task, ["baselines", "TI", RELEASED])
    assert set(rates) == {"image", "evaluation", "TI", RELEASED}
    assert all(value >= 0 for value in rates.values())
