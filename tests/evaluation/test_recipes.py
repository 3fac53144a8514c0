import pytest
import torch

from mcti_core.evaluation.recipes import RECIPES, RELEASED, SIDE_BY_SIDE, config_of, learn
from mcti_core.training.config import TrainConfig
from mcti_core.training.initial import new_tokens
from mcti_core.training.per_class import train_per_class

BASE = TrainConfig(
    steps=2, batch_size=3, lr=0.01, classification_only_steps=1, gamma=0.1, gamma_end=0.01, keep_norm=True
)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_a_valid_training(recipe):
    for base in (BASE, TrainConfig()):
        assert config_of(recipe, base, 5).seed == 5


def test_the_released_settings_do_not_depend_on_ours():
    """Released: 3,100 steps per class, batch 1 accumulated four times, learning rate 5e-4 times four, gamma 1, text to image."""
    one, other = (config_of(RELEASED, base, 0) for base in (BASE, TrainConfig()))
    assert one == other
    assert (one.steps, one.batch_size, one.lr, one.gamma, one.direction, one.pooling) == (
        3100, 4, pytest.approx(5e-4 * 4), 1.0, "text_to_image", "token",
    )  # fmt: skip


def test_the_released_recipe_trains_each_class_on_its_own(tiny_host, cache):
    config = config_of(RELEASED, BASE, 0, steps=2)
    learned = learn(tiny_host, cache, RELEASED, config)
    first = new_tokens(tiny_host, cache.classes)
    by_hand = train_per_class(tiny_host, cache, first, config, side_by_side=SIDE_BY_SIDE)[-1].tokens
    assert torch.equal(learned.vectors["clip_l"], by_hand.vectors["clip_l"])
