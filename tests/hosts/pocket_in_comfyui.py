"""Load the pocket checkpoint with ComfyUI's own classes and compare every part with diffusers and transformers.

Usage: python pocket_in_comfyui.py COMFYUI_FOLDER EMPTY_FOLDER {shipped,random}

Takes the shipped weights, or random ones in the recipe's shapes. Prints a line of JSON: the largest differences.
A process of its own, because ComfyUI reads its command line, warns as it likes and has modules with names as common as ours.
"""

import json
import sys
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

REPO = Path(__file__).resolve().parents[2]
PROMPTS = ("a drawing of a glyph", "a thick red glyph on yellow paper, photo of the thing", "")
UNET = {  # ComfyUI's words for what recipe/unet.py builds
    "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 64, "channel_mult": [1, 2],
    "num_res_blocks": [1, 1], "transformer_depth": [1, 1], "transformer_depth_output": [1, 1, 1, 1],
    "transformer_depth_middle": 1, "context_dim": 96, "use_spatial_transformer": True, "use_linear_in_transformer": False,
    "legacy": False, "use_temporal_attention": False, "adm_in_channels": None, "dtype": torch.float32,
}  # fmt: skip


def main(comfyui: Path, folder: Path, weights: str) -> None:
    sys.path.insert(0, str(comfyui))  # before the repository, whose nodes/ would hide ComfyUI's nodes.py
    sys.path.append(str(REPO))
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    torch.manual_seed(0)
    tokenizer_folder, tower, unet, vae = shipped_parts() if weights == "shipped" else random_parts(folder)
    with torch.inference_mode():
        text = compare_text(tokenizer_folder, tower, folder)
        print(json.dumps({**text, **compare_unet(unet), **compare_vae(vae), **compare_sampling(unet, vae)}))


def shipped_parts():
    """Tokenizer folder, CLIPTextModel, UNet and AutoencoderTiny in float32."""
    from diffusers import AutoencoderTiny, UNet2DConditionModel
    from transformers import CLIPTextModel

    from mcti_core.pocket import POCKET_FOLDER

    tower = CLIPTextModel.from_pretrained(POCKET_FOLDER / "text_encoder")
    unet = UNet2DConditionModel.from_pretrained(POCKET_FOLDER / "unet")
    vae = AutoencoderTiny.from_pretrained(POCKET_FOLDER / "vae")
    return POCKET_FOLDER / "tokenizer", tower.float().eval(), unet.float().eval(), vae.float().eval()


def random_parts(folder: Path):
    """The same, untrained."""
    from transformers import CLIPTextModel

    from mcti_core.pocket.recipe.autoencoder import make_autoencoder
    from mcti_core.pocket.recipe.text import make_clip
    from mcti_core.pocket.recipe.unet import make_unet
    from mcti_core.pocket.recipe.vocabulary import write_tokenizer

    tokenizer = write_tokenizer(folder / "tokenizer", ["balumo", "kedi"])
    vae = make_autoencoder()
    *inner, last = [module for module in vae.modules() if isinstance(module, nn.Conv2d)]
    for module in inner:
        nn.init.kaiming_normal_(module.weight)  # as torch leaves them, images would be nearly constant
    nn.init.constant_(last.bias, 0.5)
    tower = CLIPTextModel(make_clip(len(tokenizer)).config.text_config)
    return folder / "tokenizer", tower.eval(), make_unet().eval(), vae.eval()


def load_clip(tokenizer_folder: Path, tower: nn.Module, embeddings: Path):
    """ComfyUI's CLIP with our vocabulary: its tokenizer and its text model, told other sizes and special tokens."""
    import comfy.sd
    from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer, SDClipModel, SDTokenizer
    from comfy.supported_models_base import ClipTarget

    config = tower.config.to_dict()
    special = {"start": config["bos_token_id"], "end": config["eos_token_id"], "pad": config["pad_token_id"]}

    class Tokenizer(SDTokenizer):
        def __init__(self, embedding_directory=None, tokenizer_data=None):
            super().__init__(
                tokenizer_path=str(tokenizer_folder),
                embedding_directory=embedding_directory,
                embedding_size=config["hidden_size"],
            )

    class TextModel(SDClipModel):
        def __init__(self, device="cpu", dtype=None, model_options=None):
            super().__init__(
                device=device,
                dtype=dtype,
                textmodel_json_config=dict(config),
                special_tokens=special,
                return_projected_pooled=False,
                model_options=model_options or {},
            )
            # ComfyUI makes a table of 49,408 rows whatever the config says
            rows = config["vocab_size"], config["hidden_size"]
            self.transformer.set_input_embeddings(self.operations.Embedding(*rows, dtype=dtype, device=device))
            self.freeze()

    clip = comfy.sd.CLIP(
        ClipTarget(SD1Tokenizer, SD1ClipModel),
        embedding_directory=str(embeddings),
        tokenizer_data={"clip_l_tokenizer_class": Tokenizer},
        model_options={"clip_l_class": TextModel, "dtype": torch.float32},
    )
    weights = {key.removeprefix("text_model."): value for key, value in tower.state_dict().items()}  # transformers 4, 5
    missing, unexpected = clip.load_sd({f"text_model.{key}": value for key, value in weights.items()})
    if missing != ["text_projection.weight"] or unexpected:
        raise RuntimeError(f"text model: missing {missing}, unexpected {unexpected}")
    return clip


def compare_text(tokenizer_folder: Path, tower: nn.Module, folder: Path) -> dict[str, float]:
    from safetensors.torch import save_file
    from transformers import CLIPTokenizer

    from mcti_core.hosts.clip_text import run_text_tower

    tokenizer = CLIPTokenizer.from_pretrained(tokenizer_folder)
    learned = torch.randn(2, tower.config.hidden_size)
    (folder / "embeddings").mkdir()
    save_file({"clip_l": learned}, folder / "embeddings" / "learned.safetensors")
    host = load_clip(tokenizer_folder, tower, folder / "embeddings")

    same_ids, hidden, pooled = True, [], []
    for prompt in PROMPTS:
        ids = tokenizer(prompt, padding="max_length", max_length=77, return_tensors="pt")["input_ids"]
        rows = host.tokenize(prompt)
        same_ids = same_ids and [token for token, _ in rows["l"][0]] == ids[0].tolist()
        ours, theirs = tower(input_ids=ids), host.encode_from_tokens(rows, return_pooled=True)
        hidden.append(gap(theirs[0], ours.last_hidden_state))
        pooled.append(gap(theirs[1], ours.pooler_output))

    ids = tokenizer("a drawing of a a glyph", padding="max_length", max_length=77, return_tensors="pt")["input_ids"]
    embeds = tower.get_input_embeddings()(ids)
    embeds[0, 4:6] = learned
    spliced = host.encode_from_tokens(host.tokenize("a drawing of embedding:learned glyph"))
    return {
        "token ids": 0.0 if same_ids else 1.0,
        "hidden states": max(hidden),
        "pooled": max(pooled),
        "learned vectors": gap(spliced, run_text_tower(tower, ids, embeds).last_hidden_state),
    }


def load_unet(unet: nn.Module):
    """ComfyUI's BaseModel with these weights, the SD 1.5 latent format and the SD 1.5 schedule."""
    import comfy.latent_formats
    import comfy.model_base
    import comfy.utils
    from comfy.supported_models_base import BASE

    class Pocket(BASE):
        unet_extra_config = {"num_heads": 4, "num_head_channels": -1}  # noqa: RUF012 - as ComfyUI writes it
        latent_format = comfy.latent_formats.SD15

    model = comfy.model_base.BaseModel(Pocket(UNET))
    names = comfy.utils.unet_to_diffusers(UNET)
    model.diffusion_model.load_state_dict({names[key]: value for key, value in unet.state_dict().items()}, strict=True)
    return model


def compare_unet(unet: nn.Module) -> dict[str, float]:
    from mcti_core.pocket.recipe.unet import make_scheduler

    model = load_unet(unet)
    alpha_bar = make_scheduler().alphas_cumprod
    sigmas = ((1 - alpha_bar) / alpha_bar).sqrt()
    timestep = torch.tensor([0, 1, 250, 500, 750, 999])
    sigma = sigmas[timestep].view(-1, 1, 1, 1)
    x = torch.randn(6, 4, 8, 8) * (sigma.square() + 1).sqrt()
    context = torch.randn(6, 77, UNET["context_dim"])
    scaled = x / (sigma.square() + 1).sqrt()
    noise = unet(scaled, timestep, context).sample
    return {
        "sigmas": gap(model.model_sampling.sigmas / sigmas, torch.ones(1000)),
        "noise": gap(model.diffusion_model(scaled, timestep.float(), context=context), noise),
        "denoised": gap(model.apply_model(x, sigmas[timestep], c_crossattn=context), x - sigma * noise),
    }


def load_vae(vae: nn.Module):
    import comfy.sd

    from mcti_core.hosts.taesd import widen_to_taesd

    return comfy.sd.VAE(sd=widen_to_taesd(vae.state_dict()))


def compare_vae(vae: nn.Module) -> dict[str, float]:
    """Through the SD 1.5 latent format, as the UNet would see the latents."""
    import comfy.latent_formats

    host, latent_format = load_vae(vae), comfy.latent_formats.SD15()
    images = torch.rand(2, 64, 64, 3)
    latents = vae.encode(images.movedim(-1, 1) * 2 - 1).latents
    decoded = (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1).movedim(1, -1)
    if not decoded.std() > 0.02:
        raise RuntimeError(f"the decoded images say nothing: they vary by {decoded.std()}")
    return {
        "latents": gap(latent_format.process_in(host.encode(images)), latents),
        "images": gap(host.decode(latent_format.process_out(latents)), decoded),
    }


def compare_sampling(unet: nn.Module, vae: nn.Module) -> dict[str, float]:
    """The way of a workflow: KSampler (euler, normal, guidance 3) and VAE Decode, against the same steps by hand."""
    import comfy.model_patcher
    import comfy.sample
    import comfy.samplers

    model = load_unet(unet)
    patcher = comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))
    positive, negative, noise = torch.randn(1, 77, 96), torch.randn(1, 77, 96), torch.randn(1, 4, 8, 8)
    sampled = comfy.sample.sample(
        patcher, noise, 4, 3.0, "euler", "normal", [[positive, {}]], [[negative, {}]], torch.zeros(1, 4, 8, 8), disable_pbar=True
    )  # fmt: skip
    host_image = load_vae(vae).decode(sampled)

    sigmas = comfy.samplers.calculate_sigmas(model.model_sampling, "normal", 4)
    x = noise * (1 + sigmas[0] ** 2).sqrt()
    for sigma, following in pairwise(sigmas):
        scaled, timestep = x / (sigma**2 + 1).sqrt(), model.model_sampling.timestep(sigma)
        with_prompt, without = unet(scaled, timestep, positive).sample, unet(scaled, timestep, negative).sample
        x = x + (following - sigma) * (without + 3.0 * (with_prompt - without))
    image = (vae.decode(x).sample / 2 + 0.5).clamp(0, 1).movedim(1, -1)
    return {"sampled image": gap(host_image, image)}


def gap(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference; not a number if either holds one."""
    if a.shape != b.shape:
        raise RuntimeError(f"shapes {tuple(a.shape)} and {tuple(b.shape)} differ")
    return (a - b).abs().max().item()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
