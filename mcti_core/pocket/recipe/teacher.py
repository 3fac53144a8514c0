"""Stage: a small CNN on clean pen masks, whose features define the identities of glyphs for the CLIP towers."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .shapes import Glyphs, nearest_mean_accuracy
from .stage import Stage

__all__ = ["IDENTITY_DIM", "Teacher", "train_teacher"]

IDENTITY_DIM = 48


class Teacher(nn.Module):
    """Ink coverage (B, 1, 64, 64) -> unit identity vectors (B, 48), with one prototype per base class."""

    def __init__(self, classes: int):
        super().__init__()
        widths = (1, 48, 96, 128, 160)
        stages = [
            nn.Sequential(nn.Conv2d(i, o, 3, padding=1, bias=False), nn.BatchNorm2d(o), nn.ReLU(), nn.MaxPool2d(2))
            for i, o in pairwise(widths)
        ]
        self.body = nn.Sequential(nn.AvgPool2d(2), *stages, nn.Flatten(), nn.Linear(widths[-1] * 4, IDENTITY_DIM))
        self.prototype = nn.Parameter(torch.randn(classes, IDENTITY_DIM) * 0.1)

    def forward(self, coverage: Tensor) -> Tensor:
        return F.normalize(self.body(coverage), dim=1)

    @property
    def prototypes(self) -> Tensor:
        return F.normalize(self.prototype.detach(), dim=1)


def train_teacher(
    teacher: Teacher, glyphs: Glyphs, held_out: tuple[Tensor, Tensor, Tensor], stage: Stage, *, batch_size: int = 128
) -> None:
    """Train to classify all base classes by cosine, with a margin."""
    optimizer = torch.optim.AdamW(
        [
            {"params": teacher.body.parameters(), "weight_decay": 0.02},
            {"params": [teacher.prototype], "weight_decay": 0.0},
        ]
    )
    _, probe, probe_label, _ = glyphs.batch(1000, torch.Generator().manual_seed(5), test=True)
    for tick in stage.ticks({"teacher": teacher, "optimizer": optimizer}, warmup=30, flat=0.0):
        for group in optimizer.param_groups:
            group["lr"] = 4e-3 * tick.scale
        _, coverage, label, _ = glyphs.batch(batch_size)
        cosine = teacher(coverage) @ F.normalize(teacher.prototype, dim=1).T
        scale = 12 + 8 * tick.fraction
        loss = F.cross_entropy(scale * (cosine - 0.1 * F.one_hot(label, glyphs.classes)), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if tick.step % 100 == 0:
            teacher.eval()
            with torch.no_grad():
                base = ((teacher(probe) @ teacher.prototypes.T).argmax(1) == probe_label).float().mean()
                features = teacher(held_out[1])
            means = [nearest_mean_accuracy(features, held_out[2], shots) for shots in (1, 5)]
            teacher.train()
            print(
                f"teacher {tick.step} {tick.seconds:.0f}s loss {loss.item():.3f} base {base:.3f} held-out 1-shot {means[0]:.3f} 5-shot {means[1]:.3f}",
                flush=True,
            )
    teacher.eval()
