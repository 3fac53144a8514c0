"""Stage: the vision tower, distilled from the teacher's identities and trained contrastively with the frozen text tower."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTokenizer

from ..glyphs import IMAGE_SIZE
from .optimizer import MuonWithAdamW
from .shapes import Glyphs, nearest_mean_accuracy
from .stage import Stage
from .teacher import Teacher
from .text import Captions, attribute_code, identity_features, target_feature, text_features, word_vectors

__all__ = ["CLIP_MEAN", "CLIP_STD", "image_features", "train_vision"]

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
"""OpenAI CLIP's normalisation, which hosts use."""


def image_features(clip: CLIPModel, images: Tensor) -> Tensor:
    """(B, 3, 64, 64) in [0, 1] -> unit (B, 64)."""
    pooled = clip.vision_model(pixel_values=_normalised(images)).pooler_output
    return F.normalize(clip.visual_projection(pooled), dim=1)


def train_vision(
    clip: CLIPModel, tokenizer: CLIPTokenizer, teacher: Teacher, glyphs: Glyphs, held_out: tuple[Tensor, Tensor, Tensor],
    stage: Stage, *, warm: bool = False, batch_size: int = 96,
) -> None:  # fmt: skip
    """Train the vision tower and its projection; with ``warm``, starting from the weights of ``clip``.

    The loss has four terms: the distance to the teacher's feature; classification into the base classes; InfoNCE
    between images and captions in both directions, with the text tower frozen as in LiT (Zhai et al. 2022); and, in the
    first steps, the ink coverage of each patch, without which so small a transformer hardly starts to learn.
    """
    captions = Captions(tokenizer)
    patch = clip.config.vision_config.patch_size
    if not warm:
        _position_waves(clip, IMAGE_SIZE // patch)
    ink_head = nn.Linear(clip.config.vision_config.hidden_size, patch * patch)
    named = [(n, p) for n, p in clip.named_parameters() if n.startswith("vis")]
    named += [(f"ink_head.{n}", p) for n, p in ink_head.named_parameters()]
    optimizer = MuonWithAdamW(
        named,
        matrix=lambda n, p: p.ndim == 2 and "embedding" not in n and "ink_head" not in n,
        lr_muon=0.02,
        lr_adamw=2e-3,
        decay=0.01,
    )
    classes = identity_features(clip, captions, teacher.prototypes)
    probe, _, probe_label, _ = glyphs.batch(500, torch.Generator().manual_seed(5), test=True)
    never = torch.zeros(batch_size, dtype=torch.bool)
    parts = {"clip": clip, "ink_head": ink_head, "optimizer": optimizer}
    for tick in stage.ticks(parts, flat=0.3):
        images, coverage, label, styles = glyphs.batch(batch_size)
        ids, _ = captions.sample(styles, plain=0.2)
        with torch.no_grad():
            identity = teacher(coverage)
            target = target_feature(identity, attribute_code(styles))
            vectors = word_vectors(teacher.prototypes[label])
            caption_features = text_features(clip, ids, captions.embed(clip, ids, vectors, never))
        output = clip.vision_model(pixel_values=_normalised(images))
        feature = F.normalize(clip.visual_projection(output.pooler_output), dim=1)
        pairs = 20 * feature @ caption_features.T
        pairs = pairs.masked_fill((label[:, None] == label[None]) & ~torch.eye(batch_size, dtype=torch.bool), -1e4)
        index = torch.arange(batch_size)
        loss = 2 * (1 - (feature * target).sum(1)).mean() + 0.4 * F.cross_entropy(15 * feature @ classes.T, label)
        loss = loss + 0.3 * (F.cross_entropy(pairs, index) + F.cross_entropy(pairs.T, index))
        if tick.fraction < 0.3 and not warm:
            ink = F.unfold(coverage, patch, stride=patch).transpose(1, 2)  # (B, patches, 64)
            loss = loss + 3 * F.mse_loss(ink_head(output.last_hidden_state[:, 1:]), ink)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(tick.scale)
        if tick.step % 100 == 0:
            base = _accuracy(clip, classes, probe, probe_label)
            with torch.no_grad():
                features = image_features(clip, held_out[0])
            means = [nearest_mean_accuracy(features, held_out[2], shots) for shots in (1, 5)]
            print(
                f"vision {tick.step} {tick.seconds:.0f}s loss {loss.item():.3f} base {base:.3f} held-out 1-shot {means[0]:.3f} 5-shot {means[1]:.3f}",
                flush=True,
            )


def _normalised(images: Tensor) -> Tensor:
    return (images - torch.tensor(CLIP_MEAN).view(1, 3, 1, 1)) / torch.tensor(CLIP_STD).view(1, 3, 1, 1)


@torch.no_grad()
def _accuracy(clip: CLIPModel, classes: Tensor, images: Tensor, labels: Tensor) -> float:
    return ((image_features(clip, images) @ classes.T).argmax(1) == labels).float().mean().item()


@torch.no_grad()
def _position_waves(clip: CLIPModel, side: int) -> None:
    """Initialise the position embeddings as 2-D sine waves, so that neighbouring patches start with similar ones."""
    embeddings = clip.vision_model.embeddings
    width = embeddings.position_embedding.weight.shape[1]
    frequency = 100.0 ** -(torch.arange(width // 4) / (width // 4))
    rows, columns = torch.meshgrid(torch.arange(side) * 8 / side, torch.arange(side) * 8 / side, indexing="ij")
    waves = [wave(axis.flatten()[:, None] * frequency) for axis in (rows, columns) for wave in (torch.sin, torch.cos)]
    embeddings.position_embedding.weight[1:] = 0.3 * torch.cat(waves, dim=1)
    embeddings.patch_embedding.weight.mul_(3)
