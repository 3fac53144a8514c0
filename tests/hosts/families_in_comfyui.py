"""Learn tokens for one family of checkpoints inside ComfyUI, and compare the adapter's numbers with the host's own.

Usage: python families_in_comfyui.py COMFYUI_FOLDER EMPTY_FOLDER NAME

NAME is a key of CHECKPOINTS. The checkpoint has random weights and is loaded by the stock loader. Prints a line of JSON.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from in_comfyui import changes, gap, generator, load_checkpoint, patched, prompt_rows, read_by, snapshot, start, tell
from synthetic_checkpoints import write_sd3, write_sd15, write_sd20, write_sdxl
from torch import Tensor
from torch.overrides import TorchFunctionMode

CHECKPOINTS = {"sd15": write_sd15, "sd20": write_sd20, "sdxl": write_sdxl, "sd3": write_sd3}
PROMPTS = ["a photo of a cat, on a red chair.", "boats"]
SIZES = ((8, 8), (8, 12))
"""Of latents. SDXL is told them."""
ADAPTED = {"sd3": "x_block.attn.qkv.weight", "flux": "img_attn.qkv.weight", "z-image": "attention.qkv.weight"}
"""Weights that a LoRA is laid on, by family."""
LACKING = "clip_l.transformer.text_projection.weight"
"""What checkpoints hold none of, or nobody asks for: its memory may hold anything."""


def main(comfyui: str, folder: Path, name: str) -> None:
    start(comfyui)
    from mcti_core.hosts.comfy.host import comfy_host

    model, clip, vae = load_checkpoint(CHECKPOINTS[name](folder / "checkpoint.ckpt"))
    host = comfy_host(clip, model, vae)
    with torch.inference_mode(False), torch.no_grad():
        compared = compare_patches(model, clip, name)
        load_all(model, clip, vae)
        before = snapshot(model=model, clip=clip, vae=vae)
        trained = {**describe(host), **train_a_little(host), **check_gradients(host), "unpadded": unpadded(host)}
        trained["lists"] = indexed_by_lists(clip, host)
        different = changes(before, snapshot(model=model, clip=clip, vae=vae))
    tell({**compared, **trained, "different": different, "fingerprints": fingerprints(clip, model, folder)})


@torch.inference_mode()
def load_all(model: Any, clip: Any, vae: Any) -> None:
    """As the host loads them before it generates, so that nothing remains of other patches."""
    import comfy.model_management

    comfy.model_management.load_models_gpu([model, clip.patcher, vae.patcher])


# -- as the host's own way -----------------------------------------------------------------------------------------------


def compare_patches(model: Any, clip: Any, name: str) -> dict[str, Any]:
    """Of each kind of patch: how far the adapter is from the host, and how far the patch moved the host."""
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete, ModelSamplingSD3

    cast = "attn2.to_k.weight" if name != "sd3" else ADAPTED[name]
    with torch.inference_mode():
        models = {"plain": model, "LoRA": patched(model, cast), "options": with_attention_patch(model)}
        if name == "sd3":
            models["sampling"] = ModelSamplingSD3().patch(model, 1.5)[0]
        else:
            kind = "v_prediction" if name == "sd20" else "eps"
            models["sampling"] = ModelSamplingDiscrete().patch(model, kind, True)[0]
        clips = {"plain": clip, "LoRA": patched(clip, "self_attn.q_proj.weight")}
        for layer in (-1, -2, -3, -9):
            clips[f"skip {layer}"] = clip.clone()
            clips[f"skip {layer}"].clip_layer(layer)
    return {"text": compare_text(model, clips), "denoised": compare_denoised(models, clip)}


def with_attention_patch(model: Any) -> Any:
    """As nodes that change attention do."""
    clone = model.clone()
    clone.set_model_unet_function_wrapper(
        lambda apply, given: 0.9 * apply(given["input"], given["timestep"], **given["c"])
    )
    return clone


def compare_text(model: Any, clips: dict[str, Any]) -> dict[str, dict[str, float]]:
    from mcti_core.hosts.comfy.host import comfy_host

    found, plain = {}, None
    for name, clip in clips.items():
        with torch.inference_mode():
            rows = [clip.encode_from_tokens(clip.tokenize(prompt), return_pooled=True) for prompt in PROMPTS]
        context, pooled = (torch.cat(column) for column in zip(*rows, strict=True))
        host = comfy_host(clip, model)
        with host.session("text"):
            ours = read_by(host.denoiser, prompt_rows(host, PROMPTS))
        plain = context if plain is None else plain
        found[name] = {"context": gap(ours[0], context), "pooled": gap(ours[1], pooled), "moved": gap(context, plain)}
    return found


def compare_denoised(models: dict[str, Any], clip: Any) -> dict[str, dict[str, float]]:
    from mcti_core.hosts.comfy.host import comfy_host

    found, plain = {}, {}
    for name, model in models.items():
        host, distances = comfy_host(clip, model), {"noised": 0.0, "denoised": 0.0, "moved": 0.0}
        sigmas = host.denoiser.sigmas[torch.tensor([20, 500, 980])]
        with host.session("text"):
            text = prompt_rows(host, PROMPTS[:1])
        for size in SIZES:
            latents, noise = (torch.randn(1, channels(model), *size, generator=generator(seed)) for seed in (1, 2))
            theirs, levels = stock_steps(model, clip, latents, noise, sigmas)
            distances["sigmas"] = gap(host.denoiser.sigmas / levels, torch.ones_like(levels))
            with host.session("text", "denoiser"):
                for (noised, denoised), sigma in zip(theirs, sigmas[:, None], strict=True):
                    distances["noised"] = max(
                        distances["noised"], gap(host.denoiser.noised(latents, noise, sigma), noised)
                    )
                    ours = host.denoiser.denoise(noised, sigma, text)
                    distances["denoised"] = max(distances["denoised"], gap(ours, denoised))
                distances["moved"] = max(distances["moved"], gap(denoised, plain.setdefault(size, denoised)))
        found[name] = distances
    return found


def stock_steps(
    model: Any, clip: Any, latents: Tensor, noise: Tensor, sigmas: Tensor
) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """What the host's sampling makes of these latents at each noise level: noised, and denoised; and all its levels."""
    import comfy.sample
    import comfy.samplers

    steps, all_levels = [], []

    def look(denoise: Any, x: Tensor, levels: Tensor, extra_args: Any = None, **_: Any) -> Tensor:
        sampling = denoise.inner_model.inner_model.model_sampling
        all_levels.append(sampling.sigmas)
        for level in levels:
            noised = sampling.noise_scaling(level[None], noise, latents)
            steps.append((noised.clone(), denoise(noised, level[None], **extra_args).clone()))
        return x

    with torch.inference_mode():
        rows = clip.encode_from_tokens_scheduled(clip.tokenize(PROMPTS[0]))
        comfy.sample.sample_custom(
            model, noise, 1.0, comfy.samplers.KSAMPLER(look), sigmas, rows, rows, torch.zeros_like(noise), disable_pbar=True
        )  # fmt: skip
    return [(a.clone(), b.clone()) for a, b in steps], all_levels[0].clone()


def channels(model: Any) -> int:
    return model.model.latent_format.latent_channels


# -- learning ------------------------------------------------------------------------------------------------------------


def describe(host: Any) -> dict[str, Any]:
    sigma = torch.tensor([0.1, 1.0, 3.0])
    return {
        "encoders": {name: encoder.width for name, encoder in host.text.items()},
        "weight": host.denoiser.weight(sigma).tolist(),
        "size": host.image_size,
        "logit_normal": host.logit_normal,
        "name": host.name,
        "ascending": bool((host.denoiser.sigmas.diff() > 0).all()),
    }


def two_images() -> Any:
    from mcti_core.data.dataset import FewShotDataset

    images = torch.rand(2, 3, 64, 64, generator=generator(3))
    return FewShotDataset.from_images({"first": images[:1], "second": images[1:]})


def train_a_little(host: Any) -> dict[str, Any]:
    from mcti_core.data.feature_cache import FeatureCache
    from mcti_core.training.initial import new_tokens
    from mcti_core.training.loop import TrainConfig, train

    dataset = two_images()
    cache = FeatureCache.build(host, dataset, hflip=False, size=64)
    tokens = new_tokens(host, dataset.classes)
    config = TrainConfig(steps=10, batch_size=2, lr=0.02, gamma=0.0, lr_warmup_steps=0, templates=("a photo of a {}",))
    result = train(host, cache, tokens, config)
    return {
        "stop_reason": result.stop_reason,
        "errors": [error(host, cache, tokens), error(host, cache, result.tokens)],
        "trained": {name: gap(v, tokens.vectors[name]) for name, v in result.tokens.vectors.items()},
    }


def error(host: Any, cache: Any, tokens: Any, templates: tuple[str, ...] = ("a photo of a {}",)) -> float:
    """Of fixed images, noise levels and noise."""
    from mcti_core.prompts.splicing import host_templates
    from mcti_core.training.early_stopping import ValidationLoss

    prompts = host_templates(host, templates, tokens.vectors_per_token)
    with host.session("text", "denoiser"):
        return ValidationLoss(host, cache, torch.arange(2), prompts, num_samples=8).error(tokens.vectors)


def check_gradients(
    host: Any,
    templates: tuple[str, ...] = ("a photo of a {}",),
    dataset: Any = None,
    side: int = 64,
    length: float = 0.02,
) -> dict[str, Any]:
    """By encoder: the loss's slope along its gradient by small steps (of that length), over what the gradient says."""
    from mcti_core.data.feature_cache import FeatureCache
    from mcti_core.prompts.splicing import host_templates
    from mcti_core.training.objective import encode_classes, reconstruction_loss

    cache = FeatureCache.build(host, dataset or two_images(), hflip=False, size=side)
    laid_out = host_templates(host, templates, 1)
    start_at = {name: torch.randn(2, 1, e.width, generator=generator(4)) * 0.02 for name, e in host.text.items()}
    both = torch.arange(2)

    def loss(vectors: dict[str, Tensor]) -> Tensor:
        random = generator(5)
        prompts = encode_classes(host, laid_out, vectors, both, both, both, "eot", random)
        return reconstruction_loss(host, cache, both, prompts.conditioning_of(both), random).mean()

    def slopes() -> tuple[dict[str, Tensor], int]:
        """By encoder, and the bytes that are kept for backward."""
        kept: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        vectors = {name: v.clone().requires_grad_() for name, v in start_at.items()}
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            value = loss(vectors)
        return dict(zip(vectors, torch.autograd.grad(value, list(vectors.values())), strict=True)), sum(kept.values())

    with host.session("text", "denoiser", gradients=True, checkpointing=True), torch.enable_grad():
        again, less = slopes()
        blocks = {type(module).__name__ for module in host.denoiser._model.modules() if "forward" in vars(module)}
    ratios = {}
    with host.session("text", "denoiser", gradients=True), torch.enable_grad():
        gradients, kept = slopes()
        with torch.no_grad():
            for name, gradient in gradients.items():
                step = length * start_at[name].norm() * gradient / gradient.norm()
                ahead, behind = (loss({**start_at, name: start_at[name] + sign * step}) for sign in (1, -1))
                ratios[name] = ((ahead - behind) / (2 * (gradient * step).sum())).item()
    apart = max(gap(again[name], gradient) / float(gradient.abs().max()) for name, gradient in gradients.items())
    return {"slope": ratios, "checkpointed": {"apart": apart, "kept": less / kept, "blocks": sorted(blocks)}}


def unpadded(host: Any) -> float:
    """How far text features without the prompts' padding are from those with it."""
    from mcti_core.prompts.splicing import encode_prompts, template_prompts

    apart = 0.0
    with host.session("text"):
        vectors = {name: torch.randn(2, 1, e.width, generator=generator(6)) * 0.02 for name, e in host.text.items()}
        whole = {n: template_prompts(e, ("a {}", "a photo of a {}"), 1) for n, e in host.text.items()}
        padded = encode_prompts(host, whole, vectors)
        short = encode_prompts(host, {name: p.without_padding() for name, p in whole.items()}, vectors)
        for name, features in short.items():
            length = features.hidden.shape[1]
            apart = max(apart, gap(features.hidden, padded[name].hidden[:, :length]))
            apart = max(apart, gap(features.pooled, padded[name].pooled))
    return apart


class Lists(TorchFunctionMode):
    """Counts tensors that are indexed by Python lists: on a GPU, to copy such an index there is to wait for all work."""

    def __init__(self) -> None:
        super().__init__()
        self.found = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is Tensor.__getitem__:
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            self.found += any(isinstance(part, list) for part in index)
        return function(*args, **(kwargs or {}))


def indexed_by_lists(clip: Any, host: Any) -> dict[str, int]:
    """How often, while a prompt is encoded."""
    with host.session("text"), Lists() as ours:
        prompt_rows(host, PROMPTS)
    with torch.inference_mode(), Lists() as theirs:
        clip.encode_from_tokens(clip.tokenize(PROMPTS[0]))
    return {"ours": ours.found, "theirs": theirs.found}


def fingerprints(clip: Any, model: Any, folder: Path) -> dict[str, bool]:
    """Whether the file loaded once more is the same model to us, and whether a patched one is."""
    from mcti_core.hosts.comfy.host import comfy_host

    again_model, again_clip, _ = load_checkpoint(folder / "checkpoint.ckpt")
    if LACKING in again_clip.cond_stage_model.state_dict():
        with torch.inference_mode():
            again_clip.cond_stage_model.state_dict()[LACKING].fill_(torch.nan)
    ours = comfy_host(clip, model).fingerprint
    others = {
        "again": (again_clip, again_model),
        "other CLIP": (patched(again_clip, "self_attn.q_proj.weight"), again_model),
        "other MODEL": (again_clip, patched(again_model, "weight")),
    }
    return {name: comfy_host(*other).fingerprint == ours for name, other in others.items()}


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
