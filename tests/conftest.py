"""A host of real model classes, tiny and with random weights: no fakes, no downloads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import settings

settings.register_profile("steady", derandomize=True, deadline=None, database=None)
settings.load_profile("steady")

WORDS = ["cat", "dog", "bowl"]


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory) -> Path:
    """A diffusers folder (text width 32, latents 4 x 8 x 8, images 32 x 32) with a ``clip`` folder inside."""
    from diffusers import AutoencoderTiny, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPModel, CLIPTextModel

    from mcti_core.pocket.recipe.vocabulary import write_tokenizer

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = write_tokenizer(folder / "words", WORDS)
    torch.manual_seed(0)
    clip = CLIPModel(_clip_config(len(tokenizer)))
    _spread(clip)
    text = CLIPTextModel(clip.config.text_config)
    _spread(text)
    vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8, 8), decoder_block_out_channels=(8, 8, 8),
        num_encoder_blocks=(1, 1, 1), num_decoder_blocks=(1, 1, 1), latent_channels=4,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=8, cross_attention_dim=32,
        attention_head_dim=8, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
    )  # fmt: skip
    # The two betas of SD 1.x, so that noise levels are those of the real models.
    scheduler = DDPMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, clip_sample=False
    )
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder / "model")
    clip.save_pretrained(folder / "model" / "clip")
    return folder / "model"


@pytest.fixture(scope="session")
def xl_model(tiny_model, tmp_path_factory) -> Path:
    """An SDXL folder (text widths 32 and 40, images of 32 x 32) with the CLIP model of each text encoder inside."""
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPModel, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    folder = tmp_path_factory.mktemp("xl") / "model"
    torch.manual_seed(5)
    clip_l = CLIPModel.from_pretrained(tiny_model / "clip")
    clip_g = _wider(clip_l)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=8, cross_attention_dim=32 + 40,
        attention_head_dim=(4, 8), transformer_layers_per_block=(1, 2), use_linear_projection=True,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        addition_embed_type="text_time", addition_time_embed_dim=8, projection_class_embeddings_input_dim=6 * 8 + 40,
    )  # fmt: skip
    _spread(unet.add_embedding)
    vae = AutoencoderKL(
        block_out_channels=(8, 16, 16), down_block_types=("DownEncoderBlock2D",) * 3, norm_num_groups=4,
        up_block_types=("UpDecoderBlock2D",) * 3, latent_channels=4, sample_size=32, scaling_factor=0.13025,
        force_upcast=True,
    )  # fmt: skip
    text = CLIPTextModelWithProjection(clip_g.config.text_config)
    _spread(text)
    pipeline = StableDiffusionXLPipeline(
        text_encoder=CLIPTextModel.from_pretrained(tiny_model, subfolder="text_encoder"), text_encoder_2=text,
        tokenizer=CLIPTokenizer.from_pretrained(tiny_model, subfolder="tokenizer"),
        tokenizer_2=CLIPTokenizer.from_pretrained(tiny_model, subfolder="tokenizer", pad_token="!"),
        unet=unet, vae=vae, add_watermarker=False,
        scheduler=EulerDiscreteScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1, timestep_spacing="leading",
        ),
    )  # fmt: skip
    pipeline.save_pretrained(folder)
    clip_l.save_pretrained(folder / "clip_l")
    clip_g.save_pretrained(folder / "clip_g")
    return folder


@pytest.fixture(scope="session")
def tiny_host(tiny_model):
    """The tiny model as a host with all its parts."""
    from mcti_core.hosts.diffusers.host import load_host

    return load_host(tiny_model, tiny_model / "clip")


@pytest.fixture(scope="session")
def dataset():
    """Three classes of 2, 3 and 4 random images of 32 x 32, in memory."""
    from mcti_core.data.dataset import FewShotDataset

    generator = torch.Generator().manual_seed(1)
    return FewShotDataset.from_images(
        {name: torch.rand(count, 3, 32, 32, generator=generator) for name, count in (("a", 2), ("b", 3), ("c", 4))}
    )


@pytest.fixture(scope="session")
def cache(tiny_host, dataset):
    from mcti_core.data.feature_cache import FeatureCache

    return FeatureCache.build(tiny_host, dataset)


@pytest.fixture
def tokens(tiny_host, cache):
    """Three classes of two random vectors, with the cache's support."""
    from mcti_core.tokens.token_set import TokenSet

    generator = torch.Generator().manual_seed(2)
    return TokenSet(
        labels=cache.classes,
        vectors={
            name: torch.randn(3, 2, encoder.width, generator=generator) for name, encoder in tiny_host.text.items()
        },
        templates=("a photo of a {}", "a drawing of a {}"),
        base_model="tiny",
        training={"lr": 0.1, "steps": 3, "templates": ["a", "b"], "gamma_end": None},
        support=cache.support(),
    )


def _clip_config(vocabulary: int):
    from transformers import CLIPConfig

    text = {
        "vocab_size": vocabulary, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": 77, "projection_dim": 16,
        "bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1, "pad_token_id": vocabulary - 1,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "image_size": 32, "patch_size": 8, "projection_dim": 16,
    }  # fmt: skip
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)


def _wider(clip):
    """A CLIP model for text encoders 40 wide instead of 32, with another size of features."""
    from transformers import CLIPConfig, CLIPModel

    text = {**clip.config.text_config.to_dict(), "hidden_size": 40, "projection_dim": 40}
    vision = {**clip.config.vision_config.to_dict(), "projection_dim": 40}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=40))
    _spread(model)
    return model


@torch.no_grad()
def _spread(model: torch.nn.Module) -> None:
    """Larger random weights than a fresh model's, whose features would hardly depend on its input."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.normal_(std=1.5 / parameter.shape[-1] ** 0.5)
