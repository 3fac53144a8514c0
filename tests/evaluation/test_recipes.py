from dataclasses import replace

import pytest
import torch

from mcti_core.evaluation.recipes import RECIPES, RELEASED, config_of, learn
from mcti_core.training.config import TrainConfig
from mcti_core.training.initial import new_tokens
from mcti_core.training.loop import train

BASE = TrainConfig(steps=2, batch=3, lr=0.01, warm_start=1, gamma=0.1, gamma_end=0.01, keep_norm=True)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_a_valid_training(recipe):
    for base in (BASE, TrainConfig()):
        assert config_of(recipe, base, 5).seed == 5


def test_the_released_settings_do_not_depend_on_ours():
    """Released: 3,100 steps per class, batch 1 accumulated four times, learning rate 5e-4 times four, gamma 1, text to image."""
    one, other = (config_of(RELEASED, base, 0) for base in (BASE, TrainConfig()))
    assert one == other
    assert (one.steps, one.batch, one.lr, one.gamma, one.direction, one.pooling) == (
        3100, 4, pytest.approx(5e-4 * 4), 1.0, "text_to_image", "token",
    )  # fmt: skip


def test_the_released_recipe_trains_one_class_per_run(tiny_host, cache):
    config = config_of(RELEASED, BASE, 0, steps=2)
    learned = learn(tiny_host, cache, RELEASED, config)
    by_hand = new_tokens(tiny_host, cache.classes)
    for index in range(3):
        by_hand = train(tiny_host, cache, by_hand, config, classes=[index]).tokens
    assert torch.equal(learned.vectors["clip_l"], by_hand.vectors["clip_l"])
    joint = train(tiny_host, cache, new_tokens(tiny_host, cache.classes), replace(config, direction="text_to_image"))
    assert not torch.equal(learned.vectors["clip_l"], joint.tokens.vectors["clip_l"])
