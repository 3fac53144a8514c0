import pytest
import torch

from mcti_core.classifiers.base import Classifier, Scores, predictions
from mcti_core.errors import HostError
from mcti_core.tokens.token_set import UNKNOWN

LABELS = ("ant", "bee", "cat")
LOGITS = torch.tensor([[0.0, 2.0, 1.0], [5.0, -1.0, 0.0]])
SCORES = Scores(LOGITS, torch.tensor([0, 12]))


def test_predictions_name_the_best_in_order():
    first, second = predictions(LABELS, SCORES, top=3)
    assert [label for label, _ in first.top] == ["bee", "cat", "ant"]
    assert [label for label, _ in second.top] == ["ant", "cat", "bee"]
    assert (first.label, first.index, second.label, second.index) == ("bee", 1, "ant", 0)
    assert (first.evaluations, second.evaluations) == (0, 12)
    for answer in (first, second):
        confidences = [confidence for _, confidence in answer.top]
        assert sum(confidences) == pytest.approx(1)
        assert confidences == sorted(confidences, reverse=True)
        assert answer.confidence == confidences[0]
    assert first.confidence == pytest.approx(1 / (1 + torch.e**-1 + torch.e**-2))


def test_top_is_cut_to_what_there_is():
    assert len(predictions(LABELS, SCORES, top=99)[0].top) == 3
    assert len(predictions(LABELS, SCORES)[0].top) == 1


def test_confidence_below_the_threshold_is_unknown():
    first, second = predictions(LABELS, SCORES, threshold=0.9, top=2)
    assert (first.label, first.index) == (UNKNOWN, -1)
    assert [label for label, _ in first.top] == ["bee", "cat"]
    assert first.confidence == pytest.approx(0.665, abs=1e-3)
    assert second.label == "ant"
    exact = second.confidence
    assert predictions(LABELS, SCORES, threshold=exact)[1].label == "ant"


def test_temperature_moves_confidence_and_not_order():
    plain, warm, cold = (predictions(LABELS, SCORES, temperature=t, top=3)[0] for t in (1.0, 4.0, 0.25))
    assert warm.confidence < plain.confidence < cold.confidence
    assert [label for label, _ in warm.top] == [label for label, _ in cold.top]


def test_call_carries_the_classifiers_own_temperature_and_threshold():
    class Constant(Classifier):
        labels = LABELS

        def scores(self, images):
            return Scores(LOGITS[: len(images)], torch.zeros(len(images)).long())

    classifier = Constant()
    images = torch.zeros(2, 3, 4, 4)
    assert classifier(images) == predictions(LABELS, classifier.scores(images))
    classifier.temperature, classifier.threshold = 3.0, 0.5
    answers = classifier(images, top=2)
    assert answers == predictions(LABELS, classifier.scores(images), temperature=3.0, threshold=0.5, top=2)
    assert [answer.unknown for answer in answers] == [True, False]
    with pytest.raises(TypeError, match="abstract"):
        Classifier()


@pytest.mark.parametrize("row", [[torch.inf, 1.0, 0.0], [-torch.inf] * 3])
def test_infinite_scores_are_refused_and_not_answered(row):
    with pytest.raises(HostError, match="scores are infinite"):
        predictions(LABELS, Scores(torch.tensor([row]), torch.zeros(1).long()))
