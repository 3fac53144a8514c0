"""Learn tokens for a family with text encoders beyond CLIP inside ComfyUI, and compare with its stock nodes.

Usage: python encoders_in_comfyui.py COMFYUI_FOLDER EMPTY_FOLDER NAME

NAME is a key of ``small_families.FAMILIES``. Prints a line of JSON.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from families_in_comfyui import check_gradients, error
from in_comfyui import changes, gap, generator, snapshot, start, tell
from torch import Tensor

SIDE = {"pixart": 320, "z-image": 32, "qwen-image": 32}
"""Of images in pixels, where not 64. PixArt's positions need 264 at least."""
TEMPLATES = ("a photo of a {}", "the {} on a red chair, in snow")


def main(comfyui: str, folder: Path, name: str) -> None:
    start(comfyui)
    import folder_paths
    from small_families import small_family

    from mcti_core.hosts.comfy.host import comfy_host

    folder_paths.set_temp_directory(str(folder / "temp"))
    embeddings = folder / "embeddings"
    embeddings.mkdir()
    model, clip, vae = small_family(name, str(embeddings))
    side = SIDE.get(name, 64)
    with torch.inference_mode(False), torch.no_grad():
        host = comfy_host(clip, model, vae)
        tokens = random_tokens(host)
        stock = compare_with_stock(host, clip, tokens, embeddings)
        load_all(model, clip, vae)
        before = snapshot(model=model, clip=clip, vae=vae)
        trained, found = train_a_little(host, side)
        found["kept of text"] = kept_of_text(host, clip, tokens)
        found |= check_gradients(host, TEMPLATES, dataset(side), side, 1e-3)
        different = changes(before, snapshot(model=model, clip=clip, vae=vae))
        pictures = draw(model, clip, vae, trained, embeddings, side)
        by_clip = train_with_clip(model, clip, vae, folder, side)
    tell({
        "stock": stock, "encoders": {key: encoder.width for key, encoder in host.text.items()}, **found,
        "flow": [host.logit_normal, noise_at_half_time(model, host)],
        "different": different, "pictures": pictures, "by CLIP": by_clip,
    })  # fmt: skip


@torch.inference_mode()
def load_all(model: Any, clip: Any, vae: Any) -> None:
    import comfy.model_management

    comfy.model_management.load_models_gpu([model, clip.patcher, vae.patcher])


def random_tokens(host: Any) -> Any:
    """Two classes of two vectors as long as words are."""
    from mcti_core.tokens.token_set import TokenSet

    random = generator(1)
    return TokenSet(
        ("first", "second"),
        {key: torch.randn(2, 2, encoder.width, generator=random) * 0.05 for key, encoder in host.text.items()},
    )


def noise_at_half_time(model: Any, host: Any) -> float:
    """The noise level of the middle of our time steps, over that of the middle of ComfyUI's own: also where it shifts them."""
    sampling = model.get_model_object("model_sampling")
    levels = host.denoiser.sigmas
    return float(levels[len(levels) // 2 - 1] / sampling.percent_to_sigma(0.5))


@torch.inference_mode()
def stock_prompt(clip: Any, text: str) -> dict[str, Tensor]:
    import nodes

    ((cond, rest),) = nodes.CLIPTextEncode().encode(clip, text)[0]
    return {"cross_attn": cond, **{name: value for name, value in rest.items() if isinstance(value, Tensor)}}


def compare_with_stock(host: Any, clip: Any, tokens: Any, embeddings: Path) -> dict[str, Any]:
    """How far the prompts of a template are from the stock node's, with tokens of the node and with files read by name."""
    from mcti_core.hosts.comfy.prompt_tokens import clip_with_tokens
    from mcti_core.prompts.splicing import conditioning, host_templates
    from mcti_core.tokens.io import export_embeddings

    export_embeddings(tokens, embeddings)
    both = torch.arange(2)
    prompts = {name: p.rows(both) for name, p in host_templates(host, TEMPLATES, 2).items()}
    with host.session("text"):
        ours = conditioning(host, prompts, tokens.vectors)["prompt"]
    known = clip_with_tokens(clip, tokens)
    found: dict[str, float] = {"node": 0.0, "file": 0.0, "moved": 0.0}
    for row, (template, name) in enumerate(zip(TEMPLATES, tokens.names, strict=True)):
        text = template.replace("{}", f"embedding:{name}")
        for way, how in (("node", known), ("file", clip)):
            found[way] = max(found[way], apart(ours.single(row), stock_prompt(how, text)))
        found["moved"] = apart(ours.single(row), stock_prompt(known, template.replace("{}", "cat"))) + found["moved"]
    return found


def apart(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    if ours.keys() != theirs.keys() or any(ours[name].shape != theirs[name].shape for name in ours):
        return 1e9
    return max(gap(ours[name], theirs[name]) for name in ours)


def kept_of_text(host: Any, clip: Any, tokens: Any) -> float:
    """Bytes that backward keeps of a prompt's encoding, beside those of the weights of the encoders' blocks."""
    from mcti_core.hosts.checkpointing import blocks_of
    from mcti_core.prompts.splicing import conditioning, host_templates

    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    vectors = {name: v.clone().requires_grad_() for name, v in tokens.vectors.items()}
    prompts = {name: p.rows(torch.arange(1)) for name, p in host_templates(host, TEMPLATES[:1], 2).items()}
    with host.session("text", gradients=True), torch.enable_grad():
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            features = conditioning(host, prompts, vectors)["prompt"]
        sum((t * torch.randn(t.shape, generator=generator(5))).sum() for t in features.tensors().values()).backward()
    assert all(v.grad.abs().max() > 0 for v in vectors.values())
    weights = [w for block in blocks_of(clip.cond_stage_model) for w in block.parameters()]
    return sum(kept.values()) / sum(w.numel() * w.element_size() for w in weights)


def dataset(side: int) -> Any:
    """Two classes that anybody tells apart: red and blue, of two images each."""
    from mcti_core.data.dataset import FewShotDataset

    images = pixels(side)
    return FewShotDataset.from_images({"red": images[:2], "blue": images[2:]})


def pixels(side: int) -> Tensor:
    images = 0.2 * torch.rand(4, 3, side, side, generator=generator(3))
    images[:2, 0] += 0.8
    images[2:, 2] += 0.8
    return images


def train_a_little(host: Any, side: int) -> tuple[Any, dict[str, Any]]:
    from mcti_core.classifiers.diffusion import DiffusionClassifier
    from mcti_core.data.feature_cache import FeatureCache
    from mcti_core.training.initial import new_tokens
    from mcti_core.training.loop import TrainConfig, train

    cache = FeatureCache.build(host, dataset(side), hflip=False, size=side)
    tokens = new_tokens(host, cache.classes, num_vectors=8)
    config = TrainConfig(
        steps=20, batch_size=8, lr=0.02, gamma=0.0, lr_warmup_steps=0, templates=("{}", "a {}"), micro_batch_size=3
    )
    result = train(host, cache, tokens, config)
    classifier = DiffusionClassifier(host, result.tokens, num_trials=4)
    scores = classifier.score_latents(fitted(host, classifier, cache.latents[:, 0], cache.labels))
    return result.tokens, {
        "stop_reason": result.stop_reason,
        "errors": [error(host, cache, each, config.templates) for each in (tokens, result.tokens)],
        "trained": {name: gap(v, tokens.vectors[name]) for name, v in result.tokens.vectors.items()},
        "classified": [int(label) for label in scores.logits.argmax(1)],
        "labels": cache.labels.tolist(),
    }


def train_with_clip(model: Any, clip: Any, vae: Any, folder: Path, side: int) -> dict[str, Any]:
    """What each term moves, and what CLIP answers."""
    from synthetic_checkpoints import write_clip

    from mcti_core.classifiers.clip import ClipClassifier
    from mcti_core.classifiers.diffusion import DiffusionClassifier
    from mcti_core.data.feature_cache import FeatureCache
    from mcti_core.hosts.comfy.clip_space import load_clip_file
    from mcti_core.hosts.comfy.host import comfy_host
    from mcti_core.tokens.io import export_embedding, import_embedding, load_tokens, save_tokens
    from mcti_core.training.initial import new_tokens
    from mcti_core.training.loop import TrainConfig, train

    with torch.inference_mode():  # as the node
        text = "clip_l" not in clip.cond_stage_model._modules  # whose words would be others
        file = load_clip_file(write_clip(folder / "clip.bin", text=text))
    host = comfy_host(clip, model, vae, file)
    cache = FeatureCache.build(host, dataset(side), hflip=False, size=side)
    tokens, moved = new_tokens(host, cache.classes, initializer_token="random"), {}
    for term, weights in {"both": {}, "classification": {"reconstruction_weight": 0.0, "gamma": 1.0}}.items():
        config = TrainConfig(steps=12, batch_size=2, lr=0.05, lr_warmup_steps=0, templates=("a {}",), **weights)
        result = train(host, cache, tokens, config)
        moved[term] = {name: gap(v, tokens.vectors[name]) for name, v in result.tokens.vectors.items()}
    kept = load_tokens(save_tokens(result.tokens, folder / "kept"))
    without = comfy_host(clip, model, vae)
    return {
        "moved": moved,
        "losses": [result.history["classification"][step] for step in (0, -1)],
        "recognised": [answer.index for answer in ClipClassifier(host, kept)(pixels(side)[[0, 2]])],
        "file": list(import_embedding(export_embedding(kept, 0, folder / "file"))[0].vectors),
        "encoder": host.clip.encoder,
        "without": list(
            DiffusionClassifier(without, kept, num_trials=1).score_latents(cache.latents[:1, 0]).logits.shape
        ),
    }


def fitted(host: Any, classifier: Any, latents: Tensor, labels: Tensor) -> Tensor:
    """Latents changed until their own class's prompt tells the noise in them better than the other's: what the classifier should
    answer is known."""
    from mcti_core.losses import noise_error

    sigmas, noises = classifier._trials(latents.shape[1:])
    found = latents.clone().requires_grad_()
    optimizer = torch.optim.Adam([found], lr=0.1)
    with host.session("denoiser", gradients=True), torch.enable_grad():
        texts = [{name: f.rows(each) for name, f in classifier.conditioning.items()} for each in (labels, 1 - labels)]
        for step in range(16):
            sigma, noise = (each[step % len(sigmas)].expand(len(latents), *each.shape[1:]) for each in (sigmas, noises))
            noised = host.denoiser.noised(found, noise, sigma)
            own, other = (noise_error(found, host.denoiser.denoise(noised, sigma, text), sigma) for text in texts)
            optimizer.zero_grad()
            (own - other).mean().backward(inputs=[found])
            optimizer.step()
    return found.detach()


@torch.inference_mode()
def draw(model: Any, clip: Any, vae: Any, tokens: Any, embeddings: Path, side: int) -> dict[str, float]:
    """How far the pictures of a stock graph are from the tokens': those of a saved set, of embedding files, and of a word."""
    import nodes
    from mcti_core.hosts.comfy.prompt_tokens import clip_with_tokens
    from mcti_core.tokens.io import export_embeddings, load_tokens, save_tokens

    export_embeddings(tokens, embeddings)

    def picture(how: Any, name: str) -> Tensor:
        positive, negative = (nodes.CLIPTextEncode().encode(how, text)[0] for text in (f"a photo of a {name}", ""))
        latent = {"samples": torch.zeros_like(vae.encode(torch.zeros(1, side, side, 3)))}
        drawn = nodes.KSampler().sample(model, 0, 3, 2.0, "euler", "simple", positive, negative, latent)[0]
        return drawn["samples"]

    ours = picture(clip_with_tokens(clip, tokens), f"embedding:{tokens.names[0]}")
    kept = load_tokens(save_tokens(tokens, embeddings.parent / "drawn"))
    return {
        "set": gap(picture(clip_with_tokens(clip, kept), f"embedding:{tokens.names[0]}"), ours),
        "file": gap(picture(clip, f"embedding:{tokens.names[0]}"), ours),
        "word": gap(picture(clip, "cat"), ours),
    }


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
