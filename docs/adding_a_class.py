"""Measure the cost in accuracy of adding a class to a trained set, and of merging two sets, against training all classes at once.

Usage: python docs/adding_a_class.py [SEED ...]

Handwritten digits, five shots, the pocket checkpoint: accuracy of the CLIP classifier on all other images, in percent, over
all ten digits, over the added digit and over the others. Prints one line of JSON per measurement.
"""

import json
import sys
from dataclasses import replace

import torch

from mcti_core.classifiers.clip import ClipClassifier
from mcti_core.data.dataset import few_shot_split
from mcti_core.data.feature_cache import FeatureCache
from mcti_core.evaluation.baselines import class_mean
from mcti_core.pocket import POCKET_CONFIG, load_pocket
from mcti_core.pocket.digits import digit_dataset
from mcti_core.tokens.ops import merge, select
from mcti_core.tokens.token_set import Support
from mcti_core.training.extend import add_classes
from mcti_core.training.initial import new_tokens
from mcti_core.training.loop import train

SHOTS, ADDED = 5, (9, 3, 0)


def main(seeds):
    host = load_pocket()
    cache = FeatureCache.build(host, digit_dataset(), hflip=False)
    for seed in seeds:
        measure(host, cache, seed)


def measure(host, cache, seed):
    few, others = (cache.pick(index) for index in few_shot_split(cache.labels, cache.classes, SHOTS, seed))
    config = replace(POCKET_CONFIG, seed=seed)

    def tell(method, predicted, added=None):
        right = (predicted == others.labels).float()
        rows = {"all": torch.ones(len(right), dtype=torch.bool)}
        if added is not None:
            rows |= {"added": others.labels == added, "old": others.labels != added}
        figures = {name: round(100 * right[which].mean().item(), 2) for name, which in rows.items()}
        print(json.dumps({"seed": seed, "method": method, "digit": added, **figures}), flush=True)

    def learned(examples, settings=config):
        return train(host, examples, new_tokens(host, examples.classes, seed=seed), settings).tokens

    def predicted(tokens):
        ordered = select(tokens, cache.classes)
        return ClipClassifier(host, ordered).logits(others.features[:, 0]).argmax(1)

    support = Support(few.features[:, 0], few.labels)
    tell("class mean", class_mean(support, others.features[:, 0], 10))
    by_image = predicted(learned(few))
    by_text = predicted(learned(few, replace(config, direction="text_to_image")))
    tell("all ten at once", by_image)
    tell("all ten at once, text to image", by_text)
    for digit in ADDED:
        tell("all ten at once", by_image, digit)
        tell("all ten at once, text to image", by_text, digit)
        nine = learned(of_classes(few, [other for other in range(10) if other != digit]))
        added = add_classes(host, of_classes(few, [digit]), nine, config).tokens
        tell("nine, then one added", predicted(added), digit)
    halves = [learned(of_classes(few, part)) for part in (range(5), range(5, 10))]
    tell("five and five, merged", predicted(merge(*halves)))
    tell("five, then five added", predicted(add_classes(host, of_classes(few, range(5, 10)), halves[0], config).tokens))


def of_classes(cache, chosen):
    """The examples of some classes, as if there were no others."""
    chosen = list(chosen)
    kept = cache.pick(torch.isin(cache.labels, torch.tensor(chosen)).nonzero()[:, 0])
    labels = torch.tensor([chosen.index(label) for label in kept.labels.tolist()])
    return replace(kept, classes=tuple(cache.classes[index] for index in chosen), labels=labels)


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1:]] or range(3))
