import pytest
import torch
import torch.nn.functional as F

from mcti_core.evaluation.baselines import class_mean, k_nearest, logistic_probe
from mcti_core.tokens.token_set import Support

CLASSES = 4
METHODS = [class_mean, k_nearest, logistic_probe]


@pytest.fixture
def world():
    """Five examples each of four classes, and 40 query images with their labels."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(CLASSES, 16, generator=generator)

    def draw(count):
        labels = torch.arange(CLASSES).repeat(count)
        return F.normalize(centres[labels] + 0.8 * torch.randn(len(labels), 16, generator=generator), dim=1), labels

    return Support(*draw(5)), *draw(10)


@pytest.mark.parametrize("method", METHODS)
def test_far_better_than_chance(world, method):
    support, query, labels = world
    predicted = method(support, query, CLASSES)
    assert predicted.dtype == torch.int64
    assert predicted.shape == labels.shape
    assert (predicted == labels).float().mean() > 0.8


@pytest.mark.parametrize("method", METHODS)
def test_permuting_classes_permutes_predictions(world, method):
    support, query, _ = world
    order = torch.tensor([2, 0, 3, 1])
    renamed = method(Support(support.features, order[support.labels]), query, CLASSES)
    assert torch.equal(renamed, order[method(support, query, CLASSES)])


@pytest.mark.parametrize("method", METHODS)
def test_length_of_query_features_does_not_matter(world, method):
    support, query, _ = world
    assert torch.equal(method(support, query, CLASSES), method(support, 7 * query, CLASSES))


def test_class_mean_by_plain_loops(world):
    support, query, _ = world
    means = [F.normalize(support.features[support.labels == c].mean(0), dim=0) for c in range(CLASSES)]
    expected = [max(range(CLASSES), key=lambda c: float(q @ means[c])) for q in query]
    assert class_mean(support, query, CLASSES).tolist() == expected


def test_one_nearest_is_the_nearest(world):
    support, query, _ = world
    assert torch.equal(k_nearest(support, query, CLASSES, k=1), support.labels[(query @ support.features.T).argmax(1)])
    assert torch.equal(k_nearest(support, support.features, CLASSES, k=1), support.labels)


def test_votes_count_before_similarity():
    features = F.normalize(torch.tensor([[1.0, 0.0], [0.7, 0.7], [0.7, -0.7]]), dim=1)
    query = torch.tensor([[1.0, 0.05]])
    for near, far in ((0, 1), (1, 0)):
        support = Support(features, torch.tensor([near, far, far]))
        assert k_nearest(support, query, 2, k=3).item() == far
        assert k_nearest(support, query, 2, k=2).item() == near  # one each: the nearer one
        assert k_nearest(support, query, 2, k=99).item() == far


def test_probe_of_a_single_class_answers_it(world):
    support, query, _ = world
    found = logistic_probe(Support(support.features, torch.full_like(support.labels, 2)), query, CLASSES)
    assert (found == 2).all()
