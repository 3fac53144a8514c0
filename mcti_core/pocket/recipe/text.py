"""Stage: the text tower. A caption's feature is its glyph's identity, concatenated with a code of the mentioned attributes."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTokenizer, CLIPVisionConfig

from ...hosts.diffusers.text_encoder import forward_with_embeds
from ..glyphs import IMAGE_SIZE, INKS, PAPERS, SIZES, SLANTS, Styles, caption, sample_styles
from .optimizer import MuonWithAdamW
from .stage import Stage
from .teacher import IDENTITY_DIM
from .vocabulary import GENERIC_WORD, MAX_TOKENS, POCKET_TEMPLATES

__all__ = [
    "PROJECTION_DIM",
    "TEXT_WIDTH",
    "Captions",
    "attribute_code",
    "identities_of",
    "identity_features",
    "make_clip",
    "target_feature",
    "text_features",
    "train_text",
    "word_vectors",
]

TEXT_WIDTH = 96
PROJECTION_DIM = 64
_ATTRIBUTE_WEIGHT = 0.18
"""Length of one attribute's code; an identity has length 1."""
_VECTOR_NORM = 0.98
"""Length of a class word's embedding."""

_fixed = torch.Generator().manual_seed(11)
_CODES = [
    F.normalize(c - c.mean(0), dim=1)
    for c in (torch.randn(n, PROJECTION_DIM - IDENTITY_DIM, generator=_fixed) for n in (3, 2, 6, 3, 5))
]
"""Unit codes of size, slant, ink, pen and paper; attributes without a word have code 0."""
_CODES[0][0] = _CODES[1][0] = _CODES[3][1] = 0
_ISOMETRY = torch.linalg.qr(torch.randn(TEXT_WIDTH, TEXT_WIDTH, generator=_fixed))[0][:IDENTITY_DIM]
"""(48, 96) from identities to token embeddings."""
assert [len(c) for c in _CODES] == [len(SIZES), len(SLANTS), len(INKS), 3, len(PAPERS)]


def attribute_code(styles: Styles, mentioned: Tensor | None = None) -> Tensor:
    """(B, 16) sum of the attributes' codes; ``mentioned`` (B, 5) in {0, 1} selects attributes."""
    indices = (styles.size, styles.slant, styles.ink, styles.pen.clamp(max=2), styles.paper)
    codes = torch.stack([table[index] for table, index in zip(_CODES, indices, strict=True)], dim=1)  # (B, 5, 16)
    return _ATTRIBUTE_WEIGHT * (codes if mentioned is None else codes * mentioned[..., None]).sum(1)


def target_feature(identity: Tensor, attributes: Tensor) -> Tensor:
    """Identities (B, 48) and attribute codes (B, 16) -> unit features (B, 64)."""
    return F.normalize(torch.cat([F.normalize(identity, dim=1), attributes], dim=1), dim=1)


def word_vectors(identity: Tensor) -> Tensor:
    """(B, 48) -> (B, 96): the token embeddings of identities."""
    return _VECTOR_NORM * F.normalize(identity, dim=-1) @ _ISOMETRY


@torch.no_grad()
def identities_of(clip: CLIPModel, tokenizer: CLIPTokenizer, class_words: list[str]) -> Tensor:
    """(words, 48): the identities from which ``word_vectors`` made the words' embeddings."""
    rows = torch.tensor([tokenizer.convert_tokens_to_ids(f"{word}</w>") for word in class_words])
    return F.normalize(clip.text_model.get_input_embeddings().weight[rows] @ _ISOMETRY.T, dim=1)


def make_clip(vocabulary: int) -> CLIPModel:
    """The pocket CLIP: text tower of 2 layers, width 96; vision tower of 4 layers, width 160, 16 x 16 patches; joint width 64."""
    text = CLIPTextConfig(
        vocab_size=vocabulary, hidden_size=TEXT_WIDTH, intermediate_size=4 * TEXT_WIDTH, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=MAX_TOKENS, projection_dim=PROJECTION_DIM,
        bos_token_id=vocabulary - 2, eos_token_id=vocabulary - 1, pad_token_id=vocabulary - 1,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=160, intermediate_size=640, num_hidden_layers=4, num_attention_heads=5, image_size=IMAGE_SIZE,
        patch_size=16, projection_dim=PROJECTION_DIM,
    )  # fmt: skip
    return CLIPModel(
        CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=PROJECTION_DIM)
    )


class Captions:
    """Random captions as tokens, from torch's default generator, in which any vector can replace the class word's embedding."""

    def __init__(self, tokenizer: CLIPTokenizer):
        self.tokenizer = tokenizer
        self.slot = tokenizer.convert_tokens_to_ids(f"{GENERIC_WORD}</w>")

    def ids(self, texts: list[str]) -> Tensor:
        return self.tokenizer(texts, padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt")[
            "input_ids"
        ]

    def sample(self, styles: Styles, plain: float) -> tuple[Tensor, Tensor]:
        """ids (B, 77) with ``GENERIC_WORD`` as the word, and the mentioned attributes (B, 5) in {0, 1}."""
        random = np.random.default_rng(int(torch.randint(2**62, ())))
        count = len(styles.ink)
        mentioned = (random.random((count, 5)) < 0.5) & (random.random((count, 1)) >= plain)
        order = np.tile(np.arange(4), (count, 1))
        shuffled = random.random(count) < 0.5
        order[shuffled] = random.permuted(order[shuffled], axis=1)
        templates = random.integers(len(POCKET_TEMPLATES), size=count)
        texts = [
            caption(GENERIC_WORD, POCKET_TEMPLATES[templates[i]], styles, i, mentioned[i], order[i])
            for i in range(count)
        ]
        return self.ids(texts), torch.from_numpy(mentioned).float()

    def embed(self, clip: CLIPModel, ids: Tensor, vectors: Tensor, generic: Tensor) -> Tensor:
        """Embed ids (B, 77) as (B, 77, 96), with ``vectors`` (B, 96) at the word except where ``generic`` (B,) is true."""
        table = clip.text_model.get_input_embeddings().weight
        spliced = (ids == self.slot) & ~generic[:, None]
        return torch.where(spliced[..., None], vectors[:, None], table[ids])


def text_features(clip: CLIPModel, ids: Tensor, embeds: Tensor) -> Tensor:
    """Unit features (B, 64) of embedded captions; padding after the longest caption is skipped."""
    length = int((ids == ids[0, -1]).int().argmax(1).max()) + 1
    output = forward_with_embeds(clip.text_model, ids[:, :length], embeds[:, :length])
    return F.normalize(clip.text_projection(output.pooler_output), dim=1)


def train_text(
    clip: CLIPModel, tokenizer: CLIPTokenizer, class_words: list[str], prototypes: Tensor, stage: Stage, *, warm: bool = False,
    batch_size: int = 256,
) -> None:  # fmt: skip
    """Train to map captions to ``target_feature``; with ``warm``, starting from the weights of ``clip``.

    The class words' embeddings are a fixed linear map of the prototypes. Most captions have a point between two of them
    or near one in place of the word, so that the space in which tokens are learned is smooth and encodes identity.
    """
    classes = len(prototypes)
    captions = Captions(tokenizer)
    table = clip.text_model.get_input_embeddings().weight
    rows = torch.tensor([tokenizer.convert_tokens_to_ids(f"{word}</w>") for word in class_words])
    with torch.no_grad():
        if not warm:
            table.normal_(0, 0.1)
            table[captions.slot] = 0
            clip.text_model.embeddings.position_embedding.weight.normal_(0, 0.05)
        table[rows] = word_vectors(prototypes[: len(rows)])
    named = [(n, p) for n, p in clip.named_parameters() if n.startswith("text_")]
    optimizer = MuonWithAdamW(
        named, matrix=lambda n, p: p.ndim == 2 and "embedding" not in n, lr_muon=0.01, lr_adamw=1e-3, decay=0.01
    )
    untouched = torch.cat([rows, torch.tensor([captions.slot])])
    for tick in stage.ticks({"clip": clip, "optimizer": optimizer}, flat=0.2):
        label, styles = torch.randint(0, classes, (batch_size,)), sample_styles(batch_size)
        mixed = torch.rand(batch_size, 1) * 0.6 * (torch.rand(batch_size, 1) < 0.7)
        beside = F.normalize(
            prototypes[torch.randint(0, classes, (batch_size,))] + 0.1 * torch.randn(batch_size, IDENTITY_DIM), dim=1
        )
        identity = F.normalize((1 - mixed) * prototypes[label] + mixed * beside, dim=1)
        length = (1 + 0.3 * torch.randn(batch_size, 1)).clamp(0.5, 2)
        vectors = word_vectors(identity) * length + 0.02 * torch.randn(batch_size, TEXT_WIDTH)
        ids, mentioned = captions.sample(styles, plain=0.4)
        feature = text_features(
            clip, ids, captions.embed(clip, ids, vectors, torch.zeros(batch_size, dtype=torch.bool))
        )
        loss = (1 - (feature * target_feature(identity, attribute_code(styles, mentioned))).sum(1)).mean()
        optimizer.zero_grad()
        loss.backward()
        table.grad[untouched] = 0
        optimizer.step(tick.scale)
        if tick.step % 25 == 0:
            accuracy = _retrieval_accuracy(clip, captions, prototypes)
            print(
                f"text {tick.step} {tick.seconds:.0f}s 1-cos {loss.item():.4f} identities found {accuracy:.3f}",
                flush=True,
            )


@torch.no_grad()
def identity_features(clip: CLIPModel, captions: Captions, identities: Tensor) -> Tensor:
    """(N, 48) -> (N, 64): unit text features of "a drawing of a {}" for each identity."""
    ids = captions.ids([f"a drawing of a {GENERIC_WORD}"])
    never = torch.zeros(1, dtype=torch.bool)
    parts = [(ids.expand(len(part), -1), word_vectors(part), never.expand(len(part))) for part in identities.split(256)]
    return torch.cat([text_features(clip, own, captions.embed(clip, own, *rest)) for own, *rest in parts])


def _retrieval_accuracy(clip: CLIPModel, captions: Captions, prototypes: Tensor) -> float:
    """Share of classes whose text feature is nearest to their own prototype."""
    targets = target_feature(prototypes, torch.zeros(len(prototypes), PROJECTION_DIM - IDENTITY_DIM))
    cosine = identity_features(clip, captions, prototypes) @ targets.T
    return (cosine.argmax(1) == torch.arange(len(targets))).float().mean().item()
