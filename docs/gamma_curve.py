"""Measure what gamma does to both jobs of a token, and draw the curves.

Usage: python docs/gamma_curve.py RESULTS.jsonl PICTURE.png [SEED ...]

Handwritten digits, five shots, the pocket checkpoint: accuracy of the CLIP classifier on all other images, the share of drawings
that show the right digit, and their likeness to the examples (both over two prompts), for constant gammas and for "auto".
Needs matplotlib. Appends a line of JSON for each training to RESULTS.jsonl, and skips those that are in it.
"""

import json
import sys
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import torch
import torch.nn.functional as F

from mcti_core.classifiers.clip import ClipClassifier
from mcti_core.classifiers.hybrid import class_means
from mcti_core.data.dataset import few_shot_split
from mcti_core.data.feature_cache import FeatureCache
from mcti_core.demo.judge import DigitJudge
from mcti_core.demo.results import EDIT, PLAIN
from mcti_core.evaluation.metrics import accuracy
from mcti_core.pocket import POCKET_CONFIG, load_pocket
from mcti_core.pocket.digits import digit_dataset, digit_masks
from mcti_core.sampling import generate
from mcti_core.training.initial import new_tokens
from mcti_core.training.loop import train

SHOTS, DRAWINGS = 5, 8
GAMMAS = (0.0, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, "auto")


def main(results, picture, seeds):
    done = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    left = [(g, s) for s in seeds for g in GAMMAS if not any((row["gamma"], row["seed"]) == (g, s) for row in done)]
    if left:
        host = load_pocket()
        cache = FeatureCache.build(host, digit_dataset(), hflip=False, batch_size=64)
        for gamma, seed in left:
            done.append({"gamma": gamma, "seed": seed, **measure(host, cache, gamma, seed)})
            with open(results, "a") as file:
                file.write(json.dumps(done[-1]) + "\n")
    print(table(done))
    draw(done, picture)


def measure(host, cache, gamma, seed):
    few, others = few_shot_split(cache.labels, cache.classes, SHOTS, seed)
    support, query = cache.pick(few), cache.pick(others)
    config = replace(POCKET_CONFIG, gamma=gamma, seed=seed)
    tokens = train(host, support, new_tokens(host, support.classes), config).tokens
    predicted = ClipClassifier(host, tokens).logits(query.features[:, 0]).argmax(1)
    found = {"accuracy": accuracy(predicted, query.labels)}
    masks, labels = digit_masks()
    judge = DigitJudge(masks[others], labels[others])
    means = class_means(support.features[:, 0], support.labels, len(cache.classes))
    wanted = torch.arange(len(cache.classes)).repeat_interleave(DRAWINGS)
    for kind, template in (("plain", PLAIN), ("edit", EDIT)):
        prompts = [template.replace("{}", f"embedding:{tokens.names[c]}") for c in wanted.tolist()]
        images = generate(host, prompts, tokens, seed=seed)
        features = F.normalize(host.require_clip().image_features(images), dim=-1)
        found[f"right_{kind}"] = accuracy(judge(images), wanted)
        found[f"likeness_{kind}"] = (features * means[wanted]).sum(1).mean().item()
    return {name: round(value, 4) for name, value in found.items()}


def summarised(rows):
    """(gamma, measure) -> its values over seeds."""
    found = defaultdict(list)
    for row in rows:
        found[row["gamma"], "accuracy"].append(row["accuracy"])
        for name in ("right", "likeness"):
            found[row["gamma"], name].append((row[f"{name}_plain"] + row[f"{name}_edit"]) / 2)
    return found


def table(rows):
    found = summarised(rows)
    lines = ["| gamma | CLIP accuracy, % | right digit, % | likeness |", "|---|---|---|---|"]
    for gamma in GAMMAS:
        cells = [
            (factor * mean(values), factor * stdev(values) if len(values) > 1 else 0.0, digits)
            for name, factor, digits in (("accuracy", 100, 1), ("right", 100, 1), ("likeness", 1, 3))
            if (values := found[gamma, name])
        ]
        lines.append(f"| {gamma} | " + " | ".join(f"{m:.{d}f} ± {s:.{d}f}" for m, s, d in cells) + " |")
    return "\n".join(lines)


def draw(rows, picture):
    """Accuracy, agreement and likeness over gamma; "auto" as a line across, since it has no single gamma."""
    import matplotlib.pyplot as plt

    found, numbers = summarised(rows), [gamma for gamma in GAMMAS if gamma != "auto"]
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.4), layout="constrained")
    titles = (
        ("accuracy", "images recognised, CLIP"),
        ("right", "drawings of the right digit"),
        ("likeness", "likeness to the examples"),
    )
    for axis, (name, title) in zip(axes, titles, strict=True):
        for label, gamma, style in (("gamma auto", "auto", "-"), ("gamma 0 (TI)", 0.0, ":")):
            axis.axhline(
                mean(found[gamma, name]), color="tab:blue" if gamma else "tab:grey", linestyle=style, label=label
            )
        constant = [gamma for gamma in numbers if gamma]
        values = [found[gamma, name] for gamma in constant]
        spread = [stdev(each) if len(each) > 1 else 0.0 for each in values]
        axis.errorbar(
            constant,
            [mean(each) for each in values],
            spread,
            color="tab:orange",
            marker="o",
            capsize=3,
            label="gamma constant",
        )
        axis.set(xscale="log", xlabel="gamma", title=title)
    axes[0].legend()
    figure.savefig(picture, dpi=120)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [int(seed) for seed in sys.argv[3:]] or range(3))
