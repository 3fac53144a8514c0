"""Nodes that classify: Classify With Tokens, Evaluate Tokens."""

from __future__ import annotations

import json
import logging
from typing import Any

import torch
from comfy_api.latest import io
from PIL import Image
from torch import Tensor

from ..mcti_core.classifiers.base import Prediction
from ..mcti_core.classifiers.calibration import METHODS, calibrated_classifier, resolve_method
from ..mcti_core.errors import ConfigError, ExamplesError
from ..mcti_core.evaluation.measure import (
    Measurement,
    aligned_table,
    class_indices,
    count_learned,
    percent,
    score_images,
)
from ..mcti_core.evaluation.metrics import accuracy
from ..mcti_core.files.limits import MAX_LOGITS
from ..mcti_core.hosts.base import Host
from ..mcti_core.images.reading import to_square
from ..mcti_core.tokens.token_set import TokenSet
from ..mcti_core.viz.image_grid import image_grid, to_pil
from ..mcti_core.viz.plots import confusion_plot, score_bars
from .checking import Node
from .context import ProgressReporter
from .schema import node_schema
from .types import ClipSpaceType, Examples, ExamplesType, TokensType, images_in, picture_out

__all__ = ["Classify", "Evaluate"]

_BATCH = 32
_CHART_IMAGES, _CHART_ROWS = 40, 10


def _models() -> list[Any]:
    return [
        ClipSpaceType.Input("clip_space", optional=True),
        io.Model.Input("model", optional=True),
        io.Vae.Input("vae", optional=True),
    ]


class Classify(Node):
    LISTS = frozenset({"images"})

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="MCTI_Classify",
            search_aliases=[
                "classifier",
                "image classification",
                "few-shot",
                "zero-shot",
                "tag images",
                "caption",
                "textual inversion",
            ],
            inputs=[
                io.Image.Input("images"),
                TokensType.Input("tokens"),
                io.Clip.Input("clip"),
                io.Combo.Input("method", options=list(METHODS), default="auto"),
                io.Int.Input("top_k", default=3, min=1, max=100),
                io.Float.Input("threshold", default=0.0, min=0.0, max=1.0, step=0.01),
                io.Boolean.Input("calibrate_threshold", default=False),
                *_models(),
            ],
            outputs=[
                io.String.Output("labels", is_output_list=True),
                io.Int.Output("indices", is_output_list=True),
                io.Float.Output("confidences", is_output_list=True),
                io.String.Output("scores"),
                io.Image.Output("chart"),
            ],
            is_input_list=True,
        )

    @classmethod
    def execute(
        cls, images: list[Tensor], tokens: TokenSet, clip: Any, method: str, top_k: int, threshold: float, calibrate_threshold: bool,
        clip_space: Any = None, model: Any = None, vae: Any = None,
    ) -> io.NodeOutput:  # fmt: skip
        host = _host(method, clip, model, vae, clip_space)
        classifier = calibrated_classifier(method, host, tokens, calibrate_threshold=calibrate_threshold)
        if not calibrate_threshold:
            classifier.threshold = threshold
        elif threshold:
            logging.info(
                "MC-TI: threshold %g is not used, since calibrate_threshold chose %.3f", threshold, classifier.threshold
            )
        report, answers = ProgressReporter("classifying"), list[Prediction]()
        shown = [image for batch in images for image in images_in(batch)]  # batches of any sizes
        for start in range(0, len(shown), _BATCH):
            part = [to_square(image, host.image_size) for image in shown[start : start + _BATCH]]
            answers += classifier(torch.stack(part), top=len(tokens))
            report(len(answers), len(shown))
        labels, indices = [a.label for a in answers], [a.index for a in answers]
        confidences = [a.confidence for a in answers]
        records = json.dumps([a.record(top_k) for a in answers], ensure_ascii=False)
        return io.NodeOutput(labels, indices, confidences, records, _chart(shown, answers, top_k))


class Evaluate(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            node_id="MCTI_Evaluate",
            search_aliases=["accuracy", "confusion matrix", "test", "benchmark", "classifier"],
            inputs=[
                ExamplesType.Input("held_out"),
                TokensType.Input("tokens"),
                io.Clip.Input("clip"),
                io.Combo.Input("method", options=list(METHODS), default="auto"),
                io.Int.Input("max_images_per_class", default=0, min=0, max=100_000),
                *_models(),
            ],
            outputs=[io.Float.Output("accuracy"), io.String.Output("report"), io.Image.Output("confusion")],
        )

    @classmethod
    def execute(
        cls, held_out: Examples, tokens: TokenSet, clip: Any, method: str, max_images_per_class: int,
        clip_space: Any = None, model: Any = None, vae: Any = None,
    ) -> io.NodeOutput:  # fmt: skip
        paths, labels = _queries(held_out, tokens, max_images_per_class)
        host = _host(method, clip, model, vae, clip_space)
        classifier = calibrated_classifier(method, host, tokens)
        size = held_out.size or host.image_size
        confidences, features = score_images(
            host, classifier, paths, size=size, batch_size=_BATCH, progress=ProgressReporter("evaluating")
        )
        measured = Measurement(tokens.labels, labels, confidences)
        share = accuracy(measured.predicted, labels)
        rows = [("tokens, " + resolve_method(method, host), share)]
        rows += [] if features is None else _baselines(tokens, features, labels)
        chart = confusion_plot(measured.confusion(), tokens.labels)
        text = _report(rows, measured, count_learned(tokens, features))
        return io.NodeOutput(share, text, picture_out(chart))


def _host(method: str, clip: Any, model: Any, vae: Any, clip_space: Any) -> Host:
    from ..mcti_core.hosts.comfy.host import comfy_host

    if method == "auto" and clip_space is None and (model is None or vae is None):
        raise ConfigError("there is nothing to classify with; connect clip_space, or model and vae")
    return comfy_host(clip, model, vae, clip_space)


def _chart(images: list[Tensor], answers: list[Prediction], top: int) -> Tensor:
    """The first images, each beside its best scores, in columns from left to right."""
    strips = []
    for image, answer in list(zip(images, answers, strict=True))[:_CHART_IMAGES]:
        bars = score_bars(*zip(*answer.top[:top], strict=True))
        thumbnail = to_pil(to_square(image, max(96, bars.height)))
        strip = Image.new("RGB", (thumbnail.width + bars.width, thumbnail.height), "white")
        strip.paste(thumbnail, (0, 0))
        strip.paste(bars, (thumbnail.width, (thumbnail.height - bars.height) // 2))
        strips.append([picture_out(strip)[0].movedim(-1, 0)])
    labels = [answer.label for answer in answers[:_CHART_IMAGES]]
    starts = range(0, len(strips), _CHART_ROWS)
    columns = [image_grid(strips[i : i + _CHART_ROWS], labels[i : i + _CHART_ROWS]) for i in starts]
    chart = Image.new("RGB", (sum(column.width for column in columns), columns[0].height), "white")
    for number, column in enumerate(columns):
        chart.paste(column, (sum(left.width for left in columns[:number]), 0))
    return picture_out(chart)


def _queries(held_out: Examples, tokens: TokenSet, max_images_per_class: int) -> tuple[list[Any], Tensor]:
    if not len(held_out):
        raise ExamplesError(
            "there are no held-out images: set shots to 1 or more, so that the other images of each class are held out to test on"
        )
    classes = dict(zip(held_out.images, class_indices(list(held_out.images), tokens.labels), strict=True))
    queries = {label: _sample(images, max_images_per_class) for label, images in held_out.images.items()}
    labels = [classes[label] for label, images in queries.items() for _ in images]
    return [image for images in queries.values() for image in images], torch.tensor(labels)


def _sample(images: tuple[Any, ...], max_images_per_class: int) -> tuple[Any, ...]:
    """At most this many images, 0 for all: a fixed random subset, since the first images may be frames of one scene."""
    if not max_images_per_class or len(images) <= max_images_per_class:
        return images
    indices = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:max_images_per_class]
    return tuple(images[index] for index in indices.sort().values.tolist())


def _baselines(tokens: TokenSet, features: Tensor, labels: Tensor) -> list[tuple[str, float]]:
    """Accuracy of the baselines, which use the examples' image features without tokens, on the same images."""
    from ..mcti_core.evaluation.baselines import class_mean, logistic_probe

    if tokens.support is None:
        return []
    baselines = {"class mean of the examples": class_mean, "logistic probe": logistic_probe}
    if len(tokens.support.labels) * len(tokens) > MAX_LOGITS:
        del baselines["logistic probe"]
    return [(name, accuracy(f(tokens.support, features, len(tokens)), labels)) for name, f in baselines.items()]


def _report(rows: list[tuple[str, float]], measured: Measurement, learned: int) -> str:
    methods = [(name, percent(share, 1)) for name, share in [*rows, ("chance", 1 / len(measured.classes))]]
    copies = f"{learned} of the held-out images are the same as images that the tokens were learned from, or nearly so: the accuracy is too high."
    return "\n".join(
        [
            f"{len(measured.labels)} held-out images, {len(measured.classes)} classes",
            *([copies] if learned else []),
            "",
            *aligned_table(("method", "accuracy"), methods),
            "",
            *measured.class_table(),
            "",
            f"expected calibration error: {percent(measured.calibration_error(), 1)}",
        ]
    )
