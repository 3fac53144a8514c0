"""Node that parts a batch of images by class: Route Images By Class."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..mcti_core.classifiers.base import UNKNOWN
from ..mcti_core.errors import ConfigError, ExamplesError
from ..mcti_core.normal_form import normal_form
from .checking import Node
from .running import working
from .types import CATEGORY, images_in, images_out

__all__ = ["Route"]


class Route(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="MCTI_Route",
            display_name="Route Images By Class",
            category=CATEGORY,
            description="Part a batch of images in two by what Classify With Tokens said of them. What is connected to an empty part does not run.",
            inputs=[
                io.Image.Input("images", tooltip="The images that were classified."),
                io.String.Input("labels", force_input=True, tooltip="Labels from Classify With Tokens."),
                io.String.Input("wanted", default="", tooltip="Labels to let through, separated by commas. Empty lets every class through, and not (unknown). Connected to the labels of Token Prompts, each prompt's images must be of its class."),
                io.Float.Input("least_confidence", default=0.0, min=0.0, max=1.0, step=0.01, tooltip="Let through only images recognised with this confidence at least. Needs confidences."),
                io.Float.Input("confidences", force_input=True, optional=True, tooltip="Confidences from Classify With Tokens."),
            ],
            outputs=[io.Image.Output("matching", display_name="matching", tooltip="The images let through."), io.Image.Output("rest", display_name="the rest", tooltip="All other images.")],
            is_input_list=True,
        )  # fmt: skip

    @classmethod
    def execute(
        cls, images: list[Tensor], labels: list[str], wanted: list[str], least_confidence: list[float],
        confidences: list[float] | None = None,
    ) -> io.NodeOutput:  # fmt: skip
        with working():
            every = torch.cat([images_in(batch) for batch in _of_one_size(images)])
            if len(every) != len(labels):
                raise ConfigError(
                    f"there are {len(every)} images and {len(labels)} labels; connect the images that were classified"
                )
            sure = confidences if confidences is not None else [1.0] * len(labels)
            if len(sure) != len(labels):
                raise ConfigError(
                    f"there are {len(labels)} labels and {len(sure)} confidences; connect both from the same classifier"
                )
            keep = torch.tensor(
                [
                    confidence >= least_confidence[0] and (normal_form(label) in names if names else label != UNKNOWN)
                    for label, confidence, names in zip(labels, sure, _wanted_of_each(wanted, images), strict=True)
                ]
            )
            return io.NodeOutput(_part(every[keep]), _part(every[~keep]))


def _wanted_of_each(wanted: list[str], images: list[Tensor]) -> list[set[str]]:
    """Labels that each image may have: the same for all, or of each batch its own."""
    if len(wanted) not in (1, len(images)):
        raise ConfigError(
            f"there are {len(wanted)} wanted labels and {len(images)} batches of images; give one text for all, or one a batch"
        )
    names = [{normal_form(name.strip()) for name in (text, *text.split(",")) if name.strip()} for text in wanted]
    return [
        of_batch
        for of_batch, batch in zip(names * (len(images) // len(names)), images, strict=True)
        for _ in range(len(batch))
    ]


def _part(images: Tensor) -> Any:
    """A batch for the host; where it is empty, what is behind it is left out, since hardly a node takes no image."""
    from comfy_execution.graph_utils import ExecutionBlocker

    return images_out(images) if len(images) else ExecutionBlocker(None)


def _of_one_size(images: list[Tensor]) -> list[Tensor]:
    if len({batch.shape[1:] for batch in images}) > 1:
        sizes = ", ".join(sorted({f"{batch.shape[2]} x {batch.shape[1]}" for batch in images}))
        raise ExamplesError(f"the images are of several sizes ({sizes}); scale them to one size before they are routed")
    return images
