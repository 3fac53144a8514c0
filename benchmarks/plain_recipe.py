"""The usual recipe in plain diffusers: one class per run, every model in every step, the whole vocabulary in the optimizer.

It reimplements ``examples/textual_inversion/textual_inversion.py`` of diffusers, with the classification term that the released
procedure of MC-TI adds to its loss (docs/method.md). Every step of one image

- sends the image, mirrored or not, through the autoencoder;
- sends a prompt, padded to 77 ids, through the text encoder, and the noised latent through the UNet;
- adds gamma times the cross-entropy of the prompt's text feature, pooled at the highest id (the placeholder's), against one
  image feature of every class; image features are computed once, as in the released procedure;
- restores all rows of the token table except the placeholder's, as in the original.

AdamW takes one step per ``accumulation`` of these, over the whole table. To the recipe's advantage, this version does not read
image files in every step, load the models again for each class, or log anything except the loss.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mcti_core.data.dataset import FewShotDataset
from mcti_core.hosts.clip_preprocess import clip_preprocess
from mcti_core.templates import OBJECT_TEMPLATES

__all__ = ["Draws", "Examples", "PlainRecipe", "PlainSettings", "Run"]

PLACEHOLDER = "<it>"


@dataclass(frozen=True)
class PlainSettings:
    """The released settings, except the number of steps, which is 3,100 there."""

    steps: int = 3100
    """Optimizer steps per class."""
    accumulation: int = 4
    lr: float = 5e-4 * 4
    """Learning rate, scaled by the accumulation as in the released procedure."""
    weight_decay: float = 1e-2
    gamma: float = 1.0
    logit_scale: float = 10.0
    hflip: bool = True
    templates: tuple[str, ...] = OBJECT_TEMPLATES
    word: str = "object"
    """Word whose embedding initialises the placeholder."""
    seed: int = 0


@dataclass(frozen=True)
class Examples:
    """The images of all classes."""

    pixels: Tensor
    """(N, 3, H, W) in [-1, 1]."""
    labels: Tensor
    """(N,) int64."""
    features: Tensor
    """(N, M, p) image features of unit length; M is 2 with mirror images."""


@dataclass(frozen=True)
class Draws:
    """The random inputs of a step of one image."""

    pixels: Tensor
    """(1, 3, H, W) in [-1, 1], mirrored or not."""
    text: str
    step: Tensor
    """(1,) int64 time step."""
    noise: Tensor
    """(1, 4, h, w)."""
    images: Tensor
    """(C, p) one image feature of every class, of unit length."""


@dataclass(frozen=True)
class Run:
    """One trained class."""

    vector: Tensor
    """(1, d) the placeholder's embedding, on the CPU."""
    losses: list[float]
    """Losses of every step of one image."""


class PlainRecipe:
    """The models, loaded without a host.

    Args:
        folder: a diffusers folder of Stable Diffusion 1.x with a ``CLIPModel`` in ``clip``.
        device: the device for the models.
        precision: ``"fp32"``, or ``"fp16"`` or ``"bf16"`` for mixed precision, with UNet and autoencoder in this dtype and the text
            encoder under autocast.
    """

    def __init__(self, folder: Path, device: str = "cpu", precision: str = "fp32"):
        import diffusers
        from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer

        self.device, self.precision = torch.device(device), precision
        self.dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
        known = {"AutoencoderKL": diffusers.AutoencoderKL, "AutoencoderTiny": diffusers.AutoencoderTiny}
        autoencoder = known[_class_of(folder / "vae")]
        self.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
        self.tower: Any = CLIPTextModel.from_pretrained(folder / "text_encoder").float().to(device)
        self.unet: Any = diffusers.UNet2DConditionModel.from_pretrained(folder / "unet", torch_dtype=self.dtype)
        self.vae: Any = autoencoder.from_pretrained(folder / "vae", torch_dtype=self.dtype)
        self.scheduler = diffusers.DDPMScheduler.from_pretrained(folder / "scheduler")
        self.clip: Any = CLIPModel.from_pretrained(folder / "clip").float().to(device).requires_grad_(False)
        for module in (self.unet, self.vae):
            module.to(device).requires_grad_(False)
        self.tokenizer.add_tokens([PLACEHOLDER])
        self.placeholder = self.tokenizer.convert_tokens_to_ids(PLACEHOLDER)
        self.tower.resize_token_embeddings(len(self.tokenizer), mean_resizing=False)
        self.tower.requires_grad_(False)
        self.table: Tensor = self.tower.get_input_embeddings().weight.requires_grad_(True)  # (vocabulary + 1, d)
        self.size = int(self.unet.config.sample_size) * 2 ** (len(self.vae.config.block_out_channels) - 1)

    @torch.no_grad()
    def image_features(self, dataset: FewShotDataset, hflip: bool) -> Tensor:
        """(N, M, p) unit-length features: every image and its mirror image, passed through the vision tower once."""
        rows = []
        for image in dataset.load(self.size):
            views = torch.stack([image, image.flip(-1)] if hflip else [image]).to(self.device)
            pixels = clip_preprocess(views, self.clip.config.vision_config.image_size)
            pooled = self.clip.vision_model(pixel_values=pixels).pooler_output
            rows.append(F.normalize(self.clip.visual_projection(pooled), dim=-1))
        return torch.stack(rows)

    def examples(self, dataset: FewShotDataset, hflip: bool) -> Examples:
        """All image data for training, in memory."""
        pixels = torch.stack(list(dataset.load(self.size))) * 2 - 1
        return Examples(pixels, dataset.labels, self.image_features(dataset, hflip))

    def train(self, examples: Examples, settings: PlainSettings, classes: Sequence[int]) -> list[Run]:
        """Train every class in its own run, one after the other."""
        return [self.train_class(examples, label, settings) for label in classes]

    def train_class(
        self, examples: Examples, label: int, settings: PlainSettings, on_step: Callable[[int, Tensor], object] | None = None
    ) -> Run:  # fmt: skip
        """Learn the placeholder's embedding; ``on_step`` is called after each optimizer step with its number and the vector."""
        self.begin(settings.word)
        kept = self.table.detach().clone()
        others = torch.ones(len(self.table), dtype=torch.bool, device=self.device)
        others[self.placeholder] = False
        optimizer = torch.optim.AdamW(
            [self.table], lr=settings.lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=settings.weight_decay
        )
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        generator = torch.Generator().manual_seed(settings.seed + label)
        losses: list[float] = []
        for micro_step in range(settings.steps * settings.accumulation):
            draws = self.draw(examples, label, settings, generator)
            noise_loss, class_loss = self.losses(self.latents(draws.pixels), label, draws, settings.logit_scale)
            loss = noise_loss + settings.gamma * class_loss
            scaler.scale(loss / settings.accumulation).backward()
            if (micro_step + 1) % settings.accumulation == 0:
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
            with torch.no_grad():
                self.table[others] = kept[others]
            losses.append(loss.detach().item())
            if on_step is not None and (micro_step + 1) % settings.accumulation == 0:
                on_step((micro_step + 1) // settings.accumulation, self.vector())
        return Run(self.vector(), losses)

    def vector(self) -> Tensor:
        """(1, d) the placeholder's embedding, on the CPU."""
        return self.table[self.placeholder].detach().cpu().clone()[None]

    @torch.no_grad()
    def begin(self, word: str) -> None:
        """Initialise the placeholder with a word's embedding."""
        (known,) = self.tokenizer(word, add_special_tokens=False)["input_ids"]
        self.table.grad = None
        self.table[self.placeholder] = self.table[known]

    def draw(self, examples: Examples, label: int, settings: PlainSettings, generator: torch.Generator) -> Draws:
        """One image of the class, one image feature of every class, and the other random inputs of a step."""

        def below(bound: int) -> int:
            return int(torch.randint(0, bound, (), generator=generator))

        def one_of(own: int) -> int:
            members = (examples.labels == own).nonzero()[:, 0].tolist()
            return members[below(len(members))]

        pixels, features = examples.pixels[one_of(label)][None], examples.features
        side = self.size // 2 ** (len(self.vae.config.block_out_channels) - 1)
        steps = self.scheduler.config.num_train_timesteps
        return Draws(
            pixels.flip(-1) if settings.hflip and below(2) else pixels,
            settings.templates[below(len(settings.templates))].format(PLACEHOLDER),
            torch.randint(0, steps, (1,), generator=generator),
            torch.randn(1, 4, side, side, generator=generator),
            torch.stack(
                [features[one_of(own), below(features.shape[1])] for own in range(int(examples.labels.max()) + 1)]
            ),
        )

    @torch.no_grad()
    def latents(self, pixels: Tensor) -> Tensor:
        """(1, 4, h, w) scaled latents of (1, 3, H, W)."""
        encoded = self.vae.encode(pixels.to(self.device, self.dtype))
        latents = encoded.latent_dist.sample() if hasattr(encoded, "latent_dist") else encoded.latents
        return latents * self.vae.config.scaling_factor

    def losses(self, latents: Tensor, label: int, draws: Draws, logit_scale: float) -> tuple[Tensor, Tensor]:
        """L_ldm and L_cls of one image."""
        ids = self.tokenizer(draws.text, padding="max_length", truncation=True, max_length=77, return_tensors="pt")
        ids = ids["input_ids"].to(self.device)  # (1, 77)
        step, noise = draws.step.to(self.device), draws.noise.to(self.device, self.dtype)
        noisy = self.scheduler.add_noise(latents, noise, step)
        with torch.autocast(self.device.type, self.dtype, enabled=self.precision != "fp32"):
            hidden = self.tower(ids)[0]  # (1, 77, d)
        predicted = self.unet(noisy, step, encoder_hidden_states=hidden.to(self.dtype)).sample
        target = (
            noise
            if self.scheduler.config.prediction_type == "epsilon"
            else self.scheduler.get_velocity(latents, noise, step)
        )
        noise_loss = F.mse_loss(predicted.float(), target.float())

        pooled = hidden[0, ids[0].argmax()].float()  # (d,) as transformers pools for SD 1.x: at the highest id
        text = F.normalize(self.clip.text_projection(pooled), dim=-1)  # (p,)
        logits = logit_scale * draws.images.to(self.device) @ text  # (C,)
        return noise_loss, F.cross_entropy(logits[None], torch.tensor([label], device=self.device))


def _class_of(folder: Path) -> str:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))["_class_name"]
