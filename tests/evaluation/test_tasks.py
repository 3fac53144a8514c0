from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from mcti_core.classifiers.logistic import LogisticRegression
from mcti_core.errors import ExamplesError
from mcti_core.evaluation.data_sets import ImageSet
from mcti_core.evaluation.tasks import Protocol, prepared
from mcti_core.training.config import TrainConfig


def test_prepared_hides_the_names(task):
    assert task.names == ("cat", "dog", "bowl", "cat dog")
    assert task.pool.classes == task.queries.classes == ("class 1", "class 2", "class 3", "class 4")


def test_prepared_takes_at_most_what_it_may(tiny_host, image_set):
    protocol = Protocol(TrainConfig(), max_classes=3, max_queries=2, pool=4)
    found = prepared(image_set, tiny_host, protocol)
    assert torch.bincount(found.pool.labels).tolist() == [4, 4, 4]
    assert torch.bincount(found.queries.labels).tolist() == [2, 2, 2]
    assert found.facts == {
        "classes": 3, "classes_in_all": 4, "test_images": 6, "test_images_in_all": 12, "own_test": False, "training_images": 12,
        "fewest": 4,
    }  # fmt: skip
    all_images = {label: [image for part in (image_set.train, image_set.test) for image, own in zip(part[0], part[1].tolist(), strict=True) if own == label] for label in range(4)}  # fmt: skip
    kept = [image_set.classes.index(name) for name in found.names]
    for part in (found.pool, found.queries):
        for image, label in zip(part.images, part.labels.tolist(), strict=True):
            assert any(torch.equal(image, other) for other in all_images[kept[label]])


def test_prepared_refuses_a_test_part_without_a_class(tiny_host, image_set):
    images, labels = image_set.test
    others = [image for image, label in zip(images, labels.tolist(), strict=True) if label]
    lacking = ImageSet("x", image_set.classes, image_set.train, (others, labels[labels > 0]), True)
    with pytest.raises(ExamplesError, match="class 'class 1' has no images"):
        prepared(lacking, tiny_host, Protocol(TrainConfig()))


def test_examples_come_from_the_pool_and_grow_with_the_shots(task):
    one, three = (task.examples(shots, 7) for shots in (1, 3))
    assert torch.bincount(three.labels).tolist() == [3] * 4
    for feature, label in zip(one.features[:, 0], one.labels, strict=True):
        assert any(torch.equal(feature, other) for other in three.features[three.labels == label, 0])
    assert not torch.equal(task.examples(1, 8).features, one.features)


def test_features_are_those_of_the_images(task, tiny_host):
    pixels = torch.stack(list(task.queries.images))
    with torch.no_grad():
        plain = F.normalize(tiny_host.clip.image_features(pixels), dim=-1)
    assert torch.allclose(task.query_features, plain, atol=1e-5)
    again = replace(task)
    again.compute()
    assert torch.equal(again.query_features, task.query_features)
    assert torch.equal(again.pool_features, task.pool_features)


def test_judge_is_a_probe_of_all_real_training_images(task):
    probe = LogisticRegression(task.pool_features, task.pool.labels, 4)
    assert torch.equal(task.judge(task.query_features), probe.logits(task.query_features).argmax(1))


def test_sample_has_every_class_and_latents(task):
    assert torch.bincount(task.sample.labels).tolist() == [2] * 4
    few = replace(task, protocol=replace(task.protocol, diffusion_queries=1))
    assert torch.bincount(few.sample.labels).tolist() == [1] * 4


def test_describe_says_all_that_changes_figures():
    one = Protocol(TrainConfig())
    for changed in (replace(one, pool=3), replace(one, hflip=False), Protocol(TrainConfig(lr=0.1)), replace(one, initializer_token="cat")):  # fmt: skip
        assert changed.describe() != one.describe()
    assert Protocol(TrainConfig(seed=9)).describe() == one.describe()  # a cell has its own
