"""The demo's stages: train, classify, generate, report."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..classifiers.clip import ClipClassifier
from ..classifiers.diffusion import DiffusionClassifier
from ..classifiers.hybrid import HybridClassifier, class_means
from ..data.dataset import few_shot_split
from ..data.feature_cache import FeatureCache
from ..evaluation.baselines import class_mean, logistic_probe
from ..evaluation.metrics import accuracy, confusion_matrix
from ..evaluation.recipes import config_of
from ..files.provenance import write_json
from ..hosts.base import Host
from ..pocket import POCKET_CONFIG, load_pocket
from ..pocket.digits import digit_dataset, digit_masks
from ..sampling import generate
from ..tokens.io import save_tokens
from ..training.config import TrainConfig
from ..training.initial import new_tokens
from ..training.loop import StepInfo, train
from .judge import DigitJudge, colours
from .report import write_report
from .results import PLAIN, PROMPTS, SAMPLES, Demo

__all__ = ["DIFFUSION_PAIRS", "DIFFUSION_QUERIES", "Progress", "run_stages"]

DIFFUSION_QUERIES, DIFFUSION_PAIRS = 200, 32
"""Number of images for the diffusion classifier, and half its usual number of pairs, so that the demo takes minutes."""
Progress = Callable[[str, int, int], object]
"""Called with the name of a stage, finished steps, and all steps."""


def run_stages(out: Path, *, shots: int, seed: int, progress: Progress) -> Demo:
    """Train TI and MC-TI tokens on ``shots`` examples of each digit, evaluate them, and write the results to ``out``.

    Writes ``report.html``, ``metrics.json`` and ``tokens.safetensors`` (the MC-TI tokens).
    """
    torch.manual_seed(seed)
    started = time.monotonic()
    demo = Demo(shots, seed)
    with demo.stage("load"):
        host, dataset = load_pocket(), digit_dataset()
        demo.classes = dataset.classes
    with demo.stage("features"):
        cache = FeatureCache.build(
            host, dataset, hflip=False, batch_size=64, progress=lambda done, total: progress("features", done, total)
        )
        few, others = few_shot_split(cache.labels, cache.classes, shots, seed)
        support, query = cache.pick(few), cache.pick(others)
        by_class = [[dataset.images[i] for i in few[support.labels == c].tolist()] for c in range(len(dataset.classes))]
        demo.support = torch.stack([torch.stack(images) for images in by_class])  # type: ignore[arg-type]
    for name, recipe in (("ti", "TI"), ("mcti", "MC-TI")):
        with demo.stage(f"train {name}"):
            _train(demo, host, support, name, config_of(recipe, POCKET_CONFIG, seed), progress)
    with demo.stage("classify by features"):
        _classify_features(demo, host, support, query)
    with demo.stage("classify by diffusion"):
        _classify_diffusion(demo, host, query, progress)
    with demo.stage("generate"):
        _generate(demo, host, support, few, progress)
    save_tokens(demo.tokens["mcti"], out / "tokens.safetensors")
    with demo.stage("report"):
        write_report(demo, out / "report.html")
    demo.seconds["total"] = time.monotonic() - started
    write_json(demo.metrics(), out / "metrics.json")
    return demo


def _train(demo: Demo, host: Host, support: FeatureCache, name: str, config: TrainConfig, progress: Progress) -> None:
    def on_step(info: StepInfo) -> None:
        progress(f"train {name}", info.step, info.total)

    result = train(host, support, new_tokens(host, support.classes), config, on_step=on_step)
    demo.tokens[name], demo.histories[name] = result.tokens, result.history


def _classify_features(demo: Demo, host: Host, support: FeatureCache, query: FeatureCache) -> None:
    few = support.support()
    assert few is not None
    assert query.features is not None
    features, classes = query.features[:, 0], len(demo.classes)
    answers = {
        "class_mean": class_mean(few, features, classes),
        "logistic_probe": logistic_probe(few, features, classes),
        "ti_clip": ClipClassifier(host, demo.tokens["ti"]).logits(features).argmax(1),
        "mcti_clip": ClipClassifier(host, demo.tokens["mcti"]).logits(features).argmax(1),
        "mcti_hybrid": HybridClassifier(host, demo.tokens["mcti"]).logits(features).argmax(1),
    }
    for name, predicted in answers.items():
        demo.accuracy[name] = accuracy(predicted, query.labels)
        demo.queries[name], demo.evaluations[name] = len(query), 0.0
    demo.confusion = confusion_matrix(answers["mcti_clip"], query.labels, classes)


def _classify_diffusion(demo: Demo, host: Host, query: FeatureCache, progress: Progress) -> None:
    """Classify the same balanced random subset of the queries with both token sets."""
    assert query.latents is not None
    subset, _ = few_shot_split(query.labels, demo.classes, DIFFUSION_QUERIES // len(demo.classes), demo.seed)
    for name in ("ti", "mcti"):
        classifier = DiffusionClassifier(host, demo.tokens[name], num_trials=DIFFUSION_PAIRS, template=PLAIN)
        predicted, evaluations = [], []
        for part in subset.split(25):
            scores = classifier.score_latents(query.latents[part, 0])
            predicted.append(scores.logits.argmax(1))
            evaluations.append(scores.evaluations)
            progress(f"diffusion classifier {name}", 25 * len(predicted), len(subset))
        key = f"{name}_diffusion"
        demo.accuracy[key], demo.queries[key] = accuracy(torch.cat(predicted), query.labels[subset]), len(subset)
        demo.evaluations[key] = torch.cat(evaluations).float().mean().item()


def _generate(demo: Demo, host: Host, support: FeatureCache, few: Tensor, progress: Progress) -> None:
    masks, labels = digit_masks()
    unseen = torch.ones(len(labels), dtype=torch.bool)
    unseen[few] = False
    judge = DigitJudge(masks[unseen], labels[unseen])
    demo.judge_accuracy = judge.accuracy
    assert support.features is not None
    means = class_means(support.features[:, 0], support.labels, len(demo.classes))
    wanted = torch.arange(len(demo.classes)).repeat_interleave(SAMPLES)
    for name in ("ti", "mcti"):
        demo.agreement[name], demo.similarity[name], demo.colours_right[name] = {}, {}, {}
        for kind, template in PROMPTS.items():
            tokens = demo.tokens[name]
            prompts = [template.replace("{}", f"embedding:{tokens.names[c]}") for c in wanted.tolist()]
            images = generate(host, prompts, tokens, seed=demo.seed)
            progress(f"generate {name}", len(images) * (1 + (kind == "edit")), 2 * len(images))
            features = F.normalize(host.require_clip().image_features(images), dim=-1)
            demo.agreement[name][kind] = accuracy(judge(images), wanted)
            demo.similarity[name][kind] = (features * means[wanted]).sum(1).mean().item()
            if kind == "edit":
                inks, papers = colours(images)
                right = [ink == "red" and paper == "yellow" for ink, paper in zip(inks, papers, strict=True)]
                demo.colours_right[name][kind] = sum(right) / len(right)
            demo.samples[f"{name} {kind}"] = images.view(len(demo.classes), SAMPLES, *images.shape[1:])
