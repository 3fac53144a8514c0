import pytest
import torch
import torch.nn.functional as F

from mcti_core.classifiers.logistic import LogisticRegression


def _drawn(count, width, classes, seed=0):
    """Unit features of classes that overlap, and labels, each class at least once."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.arange(classes), torch.randint(classes, (count - classes,), generator=generator)])
    centres = torch.randn(classes, width, generator=generator)
    return F.normalize(centres[labels] + torch.randn(count, width, generator=generator), dim=-1), labels


@pytest.mark.parametrize(
    ("count", "width", "classes", "penalty"), [(50, 64, 10, 10.0), (30, 4, 3, 1.0), (40, 8, 5, 1000.0)]
)
def test_probabilities_equal_scikit_learns(count, width, classes, penalty):
    sklearn = pytest.importorskip("sklearn.linear_model")
    features, labels = _drawn(count, width, classes)
    theirs = sklearn.LogisticRegression(C=penalty, max_iter=10_000, tol=1e-8)
    theirs.fit(features.double().numpy(), labels.numpy())
    query, _ = _drawn(20, width, classes, seed=1)
    expected = torch.from_numpy(theirs.predict_proba(query.double().numpy())).float()
    ours = LogisticRegression(features, labels, classes, penalty).logits(query).softmax(1)
    torch.testing.assert_close(ours, expected, rtol=0.0, atol=2e-3)


def test_slope_at_the_minimum_is_zero():
    features, labels = _drawn(40, 16, 4)
    x = torch.cat([features.double(), torch.ones(40, 1).double()], 1)
    weights = LogisticRegression(features, labels, 4)._weights.clone().requires_grad_()
    loss = 10 * F.cross_entropy(x @ weights, labels, reduction="sum") + 0.5 * weights[:-1].square().sum()
    (slope,) = torch.autograd.grad(loss, weights)
    assert slope.abs().max() < 1e-3


def test_it_works_where_a_host_has_turned_gradients_off():
    features, labels = _drawn(20, 8, 3)
    outside = LogisticRegression(features, labels, 3).logits(features)
    with torch.inference_mode():
        assert torch.equal(LogisticRegression(features.clone(), labels.clone(), 3).logits(features), outside)
