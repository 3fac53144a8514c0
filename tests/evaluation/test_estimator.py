"""scikit-learn's model selection trains and judges clones of the estimator."""

import numpy as np
import pytest
import torch

from mcti_core.errors import ConfigError
from mcti_core.evaluation.estimator import TrainableClassifier
from mcti_core.training.config import TrainConfig

SHORT = TrainConfig(steps=2, batch_size=2, lr=0.01, lr_warmup_steps=0, templates=("a photo of a {}",))


@pytest.fixture(scope="module")
def examples():
    """Four bright and four dark images, in lists as scikit-learn indexes them."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(3, 32, 32, generator=generator) * 0.4 + 0.6 * (number % 2) for number in range(8)]
    return images, ["dark", "bright"] * 4


def test_fit_learns_the_classes_and_clones_share_the_model(tiny_host, examples):
    from sklearn.base import clone

    estimator = TrainableClassifier(tiny_host, SHORT, method="hybrid", hflip=False)
    with pytest.raises(ConfigError, match="call fit"):
        estimator(examples[0])
    assert estimator.fit(*examples) is estimator
    assert estimator.classes_.tolist() == list(estimator.tokens_.labels) == ["bright", "dark"]
    assert estimator.score(*examples) >= 0.75
    again = clone(estimator)
    assert again.host is tiny_host
    assert again.get_params() == estimator.get_params()
    assert not hasattr(again, "tokens_")
    assert np.array_equal(again.fit(*examples).predict_proba(examples[0]), estimator.predict_proba(examples[0]))
    with pytest.raises(ConfigError, match="'gamma' is not one of host, config"):
        again.set_params(gamma=1)


def test_fit_takes_labels_with_half_a_character(tiny_host, examples):
    images, _ = examples
    estimator = TrainableClassifier(tiny_host, SHORT, hflip=False).fit(images[:4], ["\ud800", "b", "a\udfff", "b"])
    assert set(estimator.classes_.tolist()) == {"\ud800", "b", "a\udfff"}


def test_cross_validation_and_search_train_on_each_fold(tiny_host, examples):
    from sklearn.model_selection import GridSearchCV, cross_val_score

    estimator = TrainableClassifier(tiny_host, SHORT, method="hybrid", hflip=False)
    for scoring in (None, "accuracy", "neg_log_loss"):
        scores = cross_val_score(estimator, *examples, cv=2, scoring=scoring, error_score="raise")
        assert np.isfinite(scores).all()
        assert len(scores) == 2
    assert not hasattr(estimator, "tokens_")
    settings = [TrainConfig(**{**vars(SHORT), "gamma": gamma, "classification_only_steps": 0}) for gamma in (0.0, 1.0)]
    search = GridSearchCV(estimator, {"config": settings}, cv=2, error_score="raise").fit(*examples)
    assert search.best_params_["config"] in settings
    assert search.best_estimator_.tokens_.training["gamma"] == search.best_params_["config"].gamma
