"""Compare the pocket checkpoint inside ComfyUI with the same weights in diffusers, part by part.

Usage: python pocket_in_comfyui.py COMFYUI_FOLDER EMPTY_FOLDER

Prints a line of JSON: the largest differences, for parts that were loaded in inference mode, as nodes load them, and outside.
"""

import sys
from itertools import pairwise
from pathlib import Path

import torch
from in_comfyui import gap, generator, prompt_rows, start, tell

PROMPTS = ["a drawing of embedding:one", "a thick red embedding:two on yellow paper, photo of the embedding:one", ""]


def main(comfyui: str, folder: Path) -> None:
    start(comfyui)
    from mcti_core.hosts.comfy.pocket import load_pocket_parts
    from mcti_core.pocket import POCKET_FOLDER, load_pocket

    theirs = load_pocket()
    tokens, embeddings = learned(folder)
    references = train_a_little(theirs)
    found = {}
    for way in ("inference", "plain"):
        with torch.inference_mode(way == "inference"):
            parts = load_pocket_parts(POCKET_FOLDER, str(embeddings))
        found[way] = compare(parts, theirs, tokens, references)
    tell(found)


def learned(folder: Path):
    """Two tokens of two random vectors, and a folder with their files."""
    from mcti_core.tokens.io import export_embeddings
    from mcti_core.tokens.token_set import TokenSet

    tokens = TokenSet(("one", "two"), {"clip_l": torch.randn(2, 2, 96, generator=generator())})
    embeddings = folder / "embeddings"
    embeddings.mkdir()
    export_embeddings(tokens, embeddings)
    return tokens, embeddings


def compare(parts, theirs, tokens, references) -> dict[str, float]:
    from mcti_core.hosts.comfy.host import comfy_host

    ours = comfy_host(parts.clip, parts.model, parts.vae, parts.clip_file)
    with torch.inference_mode(False), torch.no_grad():
        return {
            **compare_facts(ours, theirs),
            **compare_text(ours, theirs, tokens),
            **compare_denoised(ours, theirs, tokens),
            **compare_images(ours, theirs),
            **compare_training(ours, references),
            **compare_stock(parts, theirs, tokens),
        }


def compare_facts(ours, theirs) -> dict[str, float]:
    a, b = ours.text["clip_l"], theirs.text["clip_l"]
    facts = ("width", "length", "vocabulary_size", "bos_token_id", "eos_token_id", "pad_token_id")
    texts = ("a glyph, on paper.", "GLYPH's  (red)", "")
    different = [fact for fact in facts if getattr(a, fact) != getattr(b, fact)]
    different += [text for text in texts if a.tokenize(text) != b.tokenize(text)]
    different += [
        fact for fact in ("image_size", "generic_word", "name") if getattr(ours, fact) != getattr(theirs, fact)
    ]
    different += ["downscale"] * (ours.codec.downscale != theirs.codec.downscale)
    different += ["encoder of the CLIP space"] * (ours.clip.encoder != theirs.clip.encoder)
    if different:
        print(different, file=sys.stderr)
    ids = torch.arange(a.vocabulary_size)
    return {"facts": float(len(different)), "token table": gap(a.embed(ids), b.embed(ids))}


def compare_text(ours, theirs, tokens) -> dict[str, float]:
    from mcti_core.prompts.splicing import host_prompts

    with ours.session("text"):
        a, b = (prompt_rows(host, PROMPTS, tokens)["clip_l"] for host in (ours, theirs))
    end = host_prompts(theirs, PROMPTS, tokens.names, tokens.vectors_per_token)["clip_l"].end
    pooled = b.hidden[torch.arange(len(end)), end]
    return {
        "context": gap(a.context, b.context),
        "hidden states": gap(a.hidden, b.hidden),
        "pooled": gap(a.pooled, pooled),
        "projected text": gap(ours.clip.project_text(pooled), theirs.clip.project_text(pooled)),
    }


def compare_denoised(ours, theirs, tokens) -> dict[str, float]:
    """At the lowest and the highest of the noise levels, and between."""
    a, b = ours.denoiser, theirs.denoiser
    sigma = b.sigmas[torch.tensor([0, 1, 250, 500, 750, 999])]
    latents, noise = (torch.randn(6, 4, 8, 8, generator=generator(seed)) for seed in (1, 2))
    with ours.session("text", "denoiser"):
        text = prompt_rows(theirs, PROMPTS * 2, tokens)
        noised = b.noised(latents, noise, sigma)
        return {
            "sigmas": gap(a.sigmas / b.sigmas, torch.ones(1000)),
            "noised": gap(a.noised(latents, noise, sigma), noised),
            "denoised": gap(a.denoise(noised, sigma, text), b.denoise(noised, sigma, text)),
            "weight": gap(a.weight(sigma), b.weight(sigma)),
        }


def compare_images(ours, theirs) -> dict[str, float]:
    images = digits().load(64)
    images = torch.stack([next(images) for _ in range(6)])
    latents = theirs.codec.encode(images)
    decoded = theirs.codec.decode(latents)
    with ours.session("codec", "clip"):
        return {
            "latents": gap(ours.codec.encode(images), latents),
            "images": gap(ours.codec.decode(latents), decoded),
            "image features": gap(ours.clip.image_features(images), theirs.clip.image_features(images)),
        }


def digits():
    from mcti_core.pocket.digits import digit_dataset

    return digit_dataset().split(2)[0]


def train_a_little(host):
    """Tokens, losses and the scores of a classifier that they make."""
    from dataclasses import replace

    from mcti_core.classifiers.clip import ClipClassifier
    from mcti_core.data.feature_cache import FeatureCache
    from mcti_core.pocket import POCKET_CONFIG
    from mcti_core.training.initial import new_tokens
    from mcti_core.training.loop import train

    dataset = digits()
    cache = FeatureCache.build(host, dataset, hflip=False)
    begun = new_tokens(host, dataset.classes)
    result = train(host, cache, begun, replace(POCKET_CONFIG, steps=20))
    if gap(result.tokens.vectors["clip_l"], begun.vectors["clip_l"]) < 0.05:
        raise RuntimeError("the tokens were hardly trained")
    images = torch.stack(list(dataset.load(64)))
    scores = ClipClassifier(host, result.tokens).scores(images).logits
    return result.tokens.vectors["clip_l"], torch.tensor(result.history["loss"]), scores


def compare_training(ours, references) -> dict[str, float]:
    found = train_a_little(ours)
    return {
        name: gap(a, b)
        for name, a, b in zip(("trained tokens", "losses", "classifier's scores"), found, references, strict=True)
    }


def compare_stock(parts, theirs, tokens) -> dict[str, float]:
    """The way of a workflow: prompts with files of the embeddings folder, KSampler's function, VAE Decode."""
    import comfy.sample
    import comfy.samplers

    with torch.inference_mode():
        rows = [parts.clip.tokenize(prompt) for prompt in PROMPTS]
        contexts = [parts.clip.encode_from_tokens(row) for row in rows]
        noise = torch.randn(1, 4, 8, 8, generator=generator())
        empty = torch.zeros(1, 4, 8, 8)
        sampled = comfy.sample.sample(
            parts.model, noise, 4, 3.0, "euler", "normal", [[contexts[1], {}]], [[contexts[2], {}]], empty, disable_pbar=True
        )  # fmt: skip
        image = parts.vae.decode(sampled).movedim(-1, 1)
        sigmas = comfy.samplers.calculate_sigmas(parts.model.model.model_sampling, "normal", 4)
    with torch.inference_mode():
        reference = prompt_rows(theirs, PROMPTS, tokens)["clip_l"]
        x = noise * (1 + sigmas[0] ** 2).sqrt()
        for sigma, following in pairwise(sigmas):
            text = {"clip_l": reference.rows(torch.tensor([1, 2]))}
            wanted, unwanted = theirs.denoiser.denoise(x.repeat(2, 1, 1, 1), sigma.expand(2), text).chunk(2)
            x = x + (following - sigma) * (x - unwanted - 3.0 * (wanted - unwanted)) / sigma
        return {
            "stock context": gap(torch.cat(contexts), reference.context),
            "stock image": gap(image, theirs.codec.decode(x)),
        }


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
