import torch

from mcti_core.classifiers.base import Classifier, Scores
from mcti_core.cli.classify import classified
from mcti_core.errors import ExamplesError


def test_classified_gives_every_image_its_own_answer():
    class Brightest(Classifier):
        labels, temperature, threshold = ("dark", "bright"), 1.0, 0.0

        def scores(self, images):
            mean = images.mean((1, 2, 3))
            return Scores(torch.stack([0.5 - mean, mean], 1), torch.zeros(len(images), dtype=torch.long))

    error = ExamplesError("broken")
    dark, bright = torch.zeros(3, 2, 2), torch.ones(3, 2, 2)
    batches = [[("a", bright), ("b", error), ("c", dark)], [("d", error)], [("e", dark)]]
    answers = [pair for batch in classified(Brightest(), batches, 2) for pair in batch]
    assert [path for path, _ in answers] == list("abcde")
    found = [answer if answer is error else answer.label for _, answer in answers]
    assert found == ["bright", error, "dark", error, "dark"]
