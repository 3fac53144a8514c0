from dataclasses import replace

import pytest
import torch

from mcti_core.classifiers.clip import ClipClassifier
from mcti_core.classifiers.hybrid import HybridClassifier
from mcti_core.data.dataset import FewShotDataset
from mcti_core.data.feature_cache import FeatureCache
from mcti_core.errors import ConfigError, TokenError
from mcti_core.tokens.token_set import Support
from mcti_core.training.config import TrainConfig
from mcti_core.training.extend import add_classes
from mcti_core.training.initial import new_tokens
from mcti_core.training.loop import train

CONFIG = TrainConfig(steps=3, batch_size=4, lr=0.1, templates=("a photo of a {}",), pooling="token")


def images_of(*names):
    generator = torch.Generator().manual_seed(len(names) + 7)
    return {name: torch.rand(2, 3, 32, 32, generator=generator) for name in names}


@pytest.fixture(scope="module")
def trained(tiny_host, cache):
    return train(tiny_host, cache, new_tokens(tiny_host, cache.classes, num_vectors=2), CONFIG).tokens


@pytest.fixture(scope="module")
def one_more(tiny_host):
    images = images_of("d")["d"]
    return FeatureCache.build(tiny_host, FewShotDataset(("d",), tuple(images), torch.zeros(2), min_classes=1))


@pytest.fixture(scope="module")
def longer(tiny_host, trained, one_more):
    """With settings that disagree with the set's own."""
    return add_classes(tiny_host, one_more, trained, TrainConfig(steps=3, batch_size=8, lr=0.1))


def test_the_old_classes_stay_to_the_bit(trained, longer):
    tokens = longer.tokens
    assert tokens.labels == (*trained.labels, "d")
    assert tokens.names == (*trained.names, "d")
    assert torch.equal(tokens.vectors["clip_l"][:3], trained.vectors["clip_l"])
    assert (tokens.templates, tokens.pooling) == (trained.templates, trained.pooling) == (CONFIG.templates, "token")


def test_the_new_ones_are_trained_against_them(tiny_host, trained, one_more, longer):
    first = new_tokens(tiny_host, ["d"], num_vectors=2).vectors["clip_l"][0]
    assert (longer.tokens.vectors["clip_l"][3] - first).abs().max() > 0.01
    assert all(torch.tensor(longer.history["classification"]) > 0)
    other = replace(trained, support=Support(-trained.support.features, trained.support.labels))
    against_others = add_classes(tiny_host, one_more, other, TrainConfig(steps=3, batch_size=8, lr=0.1)).tokens
    assert not torch.equal(against_others.vectors["clip_l"][3], longer.tokens.vectors["clip_l"][3])


def test_support_is_of_all_classes_and_classifiers_use_it(tiny_host, trained, one_more, longer):
    support = longer.tokens.support
    assert torch.bincount(support.labels).tolist() == [2, 3, 4, 2]
    for index in range(3):
        mine, theirs = (
            support.features[support.labels == index],
            trained.support.features[trained.support.labels == index],
        )
        assert torch.equal(mine, theirs)
    assert torch.equal(support.features[support.labels == 3], one_more.features[:, 0])
    for classifier in (ClipClassifier, HybridClassifier):
        assert classifier(tiny_host, longer.tokens).logits(one_more.features[:, 0]).shape == (2, 4)


@pytest.mark.parametrize("record", [{"added": 5}, {"added": None}, {"x": object()}])
def test_damaged_record_of_a_training_is_refused_before_the_first_step(tiny_host, one_more, trained, record):
    with pytest.raises(TokenError, match="record of its training is damaged"):
        add_classes(
            tiny_host, one_more, replace(trained, training=record), CONFIG, on_step=lambda info: pytest.fail("a step")
        )


def test_stored_features_or_the_examples_themselves(tiny_host, trained, dataset, longer):
    """With the old images given again, and no mirror images that the set could not keep, nothing differs but the order."""
    images = list(dataset.load(32))
    old = {name: [images[row] for row in (dataset.labels == i).nonzero()] for i, name in enumerate(dataset.classes)}
    both = FeatureCache.build(tiny_host, FewShotDataset.from_images({**old, **images_of("d")}), hflip=False)
    again = add_classes(tiny_host, both, trained, TrainConfig(steps=3, batch_size=8, lr=0.1)).tokens
    assert again.labels == longer.tokens.labels
    assert torch.bincount(again.support.labels).tolist() == [2, 3, 4, 2]
    assert torch.equal(again.vectors["clip_l"][:3], trained.vectors["clip_l"])


def test_it_is_reported_what_was_added(trained, longer, tiny_host):
    (added,) = longer.tokens.training["added"]
    assert added["labels"] == ["d"]
    assert added["shots"] == 2
    assert (added["steps"], added["batch_size"], added["direction"]) == (3, 2, "text_to_image")  # a quarter of 8 images
    assert longer.tokens.training["direction"] == trained.training["direction"]
    dataset = FewShotDataset.from_images(images_of("e", "f"))
    further = add_classes(
        tiny_host, FeatureCache.build(tiny_host, dataset), longer.tokens, TrainConfig(steps=2, batch_size=4)
    )
    assert [one["labels"] for one in further.tokens.training["added"]] == [["d"], ["e", "f"]]
    assert further.tokens.labels == (*trained.labels, "d", "e", "f")


def test_refusals(tiny_host, trained, one_more, cache):
    with pytest.raises(ConfigError, match="the set already has a, b, c"):
        add_classes(tiny_host, cache, trained, CONFIG)
    bare = replace(trained, support=None)
    with pytest.raises(ConfigError, match="no example features of a, b, c; give images of these classes too"):
        add_classes(tiny_host, one_more, bare, CONFIG)
    part = Support(trained.support.features[:5], trained.support.labels[:5])
    with pytest.raises(ConfigError, match="has no example features of c;"):
        add_classes(tiny_host, one_more, replace(trained, support=part), CONFIG)
    wide = replace(trained, support=Support(torch.ones(9, 5), trained.support.labels))
    with pytest.raises(TokenError, match="5 wide, this CLIP space's are 16"):
        add_classes(tiny_host, one_more, wide, CONFIG)
    with pytest.raises(ConfigError, match="the set already has A"):
        add_classes(tiny_host, replace(one_more, classes=("A",)), trained, CONFIG)


def test_without_a_classification_term_no_features_are_needed(tiny_host, trained, one_more):
    bare = replace(trained, support=None)
    tokens = add_classes(tiny_host, one_more, bare, replace(CONFIG, gamma=0.0)).tokens
    assert torch.equal(tokens.vectors["clip_l"][:3], trained.vectors["clip_l"])
    assert tokens.support is None
