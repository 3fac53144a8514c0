"""Stage: the UNet. Latent diffusion on random drawings, conditioned on random captions."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from diffusers import AutoencoderTiny, DDPMScheduler, UNet2DConditionModel
from torch import Tensor
from transformers import CLIPModel, CLIPTokenizer

from ...hosts.diffusers.text_encoder import forward_with_embeds
from ..glyphs import IMAGE_SIZE
from .autoencoder import LATENT_CHANNELS
from .optimizer import MuonWithAdamW
from .shapes import Glyphs
from .stage import Stage
from .teacher import Teacher
from .text import TEXT_WIDTH, Captions, word_vectors

__all__ = ["make_scheduler", "make_unet", "train_unet"]


def make_unet() -> UNet2DConditionModel:
    """4.24 M parameters, in the shapes of ComfyUI's UNetModel(64, (1, 2))."""
    return UNet2DConditionModel(
        sample_size=IMAGE_SIZE // 8, in_channels=LATENT_CHANNELS, out_channels=LATENT_CHANNELS, block_out_channels=(64, 128),
        layers_per_block=1, down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
        mid_block_type="UNetMidBlock2DCrossAttn", attention_head_dim=4, cross_attention_dim=TEXT_WIDTH, norm_num_groups=32,
    )  # fmt: skip


def make_scheduler() -> DDPMScheduler:
    """Stable Diffusion's own schedule."""
    return DDPMScheduler(
        num_train_timesteps=1000, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction_type="epsilon",
        clip_sample=False, steps_offset=1, timestep_spacing="leading",
    )  # fmt: skip


def train_unet(
    unet: UNet2DConditionModel, autoencoder: AutoencoderTiny, clip: CLIPModel, tokenizer: CLIPTokenizer, teacher: Teacher, glyphs: Glyphs,
    stage: Stage, *, batch_size: int = 64,
) -> UNet2DConditionModel:  # fmt: skip
    """Train to predict noise; returns the moving average of the weights.

    Half the captions have the class word's vector, half a point between it and the teacher's identity of this very
    drawing, so that nearby vectors draw similar shapes, which learned tokens depend on. One caption in ten is empty
    (for guidance), one in thirty has ``GENERIC_WORD``.
    """
    captions = Captions(tokenizer)
    alpha_bar = make_scheduler().alphas_cumprod
    adamw_prefixes = ("conv_in", "conv_out", "time_emb")
    optimizer = MuonWithAdamW(
        unet.named_parameters(),
        matrix=lambda n, p: p.ndim >= 2 and not n.startswith(adamw_prefixes),
        lr_muon=0.012,
        lr_adamw=2e-3,
    )
    average = copy.deepcopy(unet).requires_grad_(False)
    empty = captions.ids([""])
    probe = _Probe(autoencoder, clip, captions, teacher, glyphs)
    parts = {"unet": unet, "average": average, "optimizer": optimizer}
    for tick in stage.ticks(parts, flat=0.7):
        images, coverage, label, styles = glyphs.batch(batch_size)
        ids, _ = captions.sample(styles, plain=0.4)
        ids = torch.where(torch.rand(batch_size, 1) < 0.1, empty, ids)
        with torch.no_grad():
            mixed = torch.rand(batch_size, 1) * 0.7 * (torch.rand(batch_size, 1) < 0.5)
            identity = (1 - mixed) * teacher.prototypes[label] + mixed * teacher(coverage)
            vectors = word_vectors(identity) * (1 + 0.2 * torch.randn(batch_size, 1)).clamp(0.6, 1.6)
            embeds = captions.embed(clip, ids, vectors, generic=torch.rand(batch_size) < 0.033)
            context = forward_with_embeds(clip.text_model, ids, embeds).last_hidden_state
            latents = autoencoder.encode(images * 2 - 1).latents
        timestep = torch.cat(
            [
                torch.randint(0, 1000, (batch_size // 2,)),
                (1000 * torch.sigmoid(0.2 + torch.randn(batch_size - batch_size // 2))).long(),
            ]
        )
        noise = torch.randn_like(latents)
        loss = F.mse_loss(unet(_noised(latents, noise, alpha_bar[timestep]), timestep, context).sample, noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step(tick.scale)
        _follow(average, unet, tick.step)
        if tick.step % 200 == 0:
            print(f"unet {tick.step} {tick.seconds:.0f}s train {loss.item():.4f} {probe.read(average)}", flush=True)
    return average.eval()


def _noised(latents: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    alpha_bar = alpha_bar.view(-1, 1, 1, 1)
    return alpha_bar.sqrt() * latents + (1 - alpha_bar).sqrt() * noise


@torch.no_grad()
def _follow(average: torch.nn.Module, model: torch.nn.Module, step: int) -> None:
    keep = min(0.999, (1 + step) / (10 + step))
    for slow, fast in zip(average.parameters(), model.parameters(), strict=True):
        slow.lerp_(fast, 1 - keep)


class _Probe:
    """Noise errors of held-out drawings with the right word, a wrong word and no caption; the first must be the smallest."""

    @torch.no_grad()
    def __init__(
        self,
        autoencoder: AutoencoderTiny,
        clip: CLIPModel,
        captions: Captions,
        teacher: Teacher,
        glyphs: Glyphs,
        count: int = 128,
    ):
        generator = torch.Generator().manual_seed(1)
        images, _, label, _ = glyphs.batch(count, generator, test=True)
        latents = autoencoder.encode(images * 2 - 1).latents
        self.timestep = torch.linspace(20, 960, count).long()
        self.noise = torch.randn(latents.shape, generator=generator)
        self.noised = _noised(latents, self.noise, make_scheduler().alphas_cumprod[self.timestep])
        ids = captions.ids(["a drawing of a glyph"]).expand(count, -1)
        never = torch.zeros(count, dtype=torch.bool)
        self.contexts = {}
        for name, shown in (("right", label), ("wrong", label.roll(1))):
            embeds = captions.embed(clip, ids, word_vectors(teacher.prototypes[shown]), never)
            self.contexts[name] = forward_with_embeds(clip.text_model, ids, embeds).last_hidden_state
        empty = captions.ids([""])
        self.contexts["empty"] = clip.text_model(input_ids=empty).last_hidden_state.expand(count, -1, -1)

    @torch.no_grad()
    def read(self, unet: UNet2DConditionModel) -> str:
        errors = {
            name: (unet(self.noised, self.timestep, context).sample - self.noise).square().mean((1, 2, 3))
            for name, context in self.contexts.items()
        }
        won = (errors["right"] < errors["wrong"]).float().mean()
        return (
            " ".join(f"{name} {error.mean():.4f}" for name, error in errors.items()) + f" right beats wrong {won:.3f}"
        )
