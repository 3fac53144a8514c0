"""Train, sample and classify inside ComfyUI with one of its loaders, while weights are moved.

Usage: python dynamic_vram_in_comfyui.py COMFYUI_FOLDER FOLDER FAMILY static|dynamic

FAMILY is "pocket", or a key of CHECKPOINTS or ``small_families.FAMILIES``. Writes tokens, latents and scores into FOLDER/FAMILY-static.pt or -dynamic.pt, and
prints a line of JSON: fingerprints, pages, and what was said where weights were left unprotected.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import torch
from dynamic_vram import Vram, pressure, start_dynamic
from families_in_comfyui import ADAPTED, CHECKPOINTS, channels, two_images
from in_comfyui import generator, load_checkpoint, patched, start, tell
from torch import Tensor

STEPS = 20
ADAPTED_TEXT = {"flux": ".SelfAttention.q.weight"}
"""Weights of text encoders that a LoRA is laid on, where they have other names than in CLIP."""
LITTLE = 4 * 2**20
"""Bytes for weights, where there is too little memory: less than one model has."""
MUCH = Vram.budget
Parts = tuple[Any, Any, Any, Any]
"""MODEL, CLIP, VAE and CLIP space."""


def main(comfyui: str, folder: Path, family: str, mode: str) -> None:
    start(comfyui)
    if mode == "dynamic":
        start_dynamic()
    parts = load(folder, family)
    adapted = with_lora(load(folder, family, precise=True), family)
    made, found = (right if mode == "static" else moved_about)(parts, adapted)
    torch.save(made, folder / f"{family}-{mode}.pt")
    found["dynamic"] = [bool(getattr(part, "is_dynamic", bool)()) for part in (parts[0], parts[1].patcher)]
    tell(found)


def right(parts: Parts, adapted: Parts) -> tuple[dict[str, Any], dict[str, Any]]:
    """Numbers to compare with, and fingerprints."""
    made = {"trained": train(*parts), "sampled": sample(*parts), "classified": classify(*parts)}
    made |= {"trained with LoRA": train(*adapted), "sampled with LoRA": sample(*adapted)}
    made["trained in micro-batches"] = train(*parts, micro_batch_size=1)  # sums are rounded in another order
    made["trained in checkpointed micro-batches"] = train(*parts, micro_batch_size=1, gradient_checkpointing=True)
    return made, {"fingerprints": [fingerprint(*parts)]}


def moved_about(parts: Parts, adapted: Parts) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same numbers by what was done before and how much memory there was; and how often weights had to move."""
    made: dict[str, Any] = {"trained": {}, "sampled": {}, "classified": {}}
    made |= {"trained with LoRA": {}, "sampled with LoRA": {}, "trained in micro-batches": {}}
    fingerprints = [fingerprint(*parts)]
    encode(parts[2])
    fingerprints.append(fingerprint(*parts))
    made["trained"]["at first"] = train(*parts)
    made["trained"]["again"] = train(*parts)
    fingerprints.append(fingerprint(*parts))
    made["sampled"]["after training"] = sample(*parts)
    made["trained"]["after sampling"] = train(*parts)
    made["trained with LoRA"]["at first"] = train(*adapted)
    made["sampled with LoRA"]["after training"] = sample(*adapted)
    made["classified"]["after training"] = classify(*parts)
    with too_little_memory():
        before = Vram.evictions, Vram.refused
        made["trained"]["too little memory"] = train(*parts)
        made["trained"]["too little memory, checkpointing"] = train(*parts, gradient_checkpointing=True)
        made["trained in micro-batches"]["too little memory"] = train(*parts, micro_batch_size=1)
        with running_out():
            made["trained in checkpointed micro-batches"] = {"a weight's copy ran out of memory": train(*parts)}
        made["sampled"]["a weight's copy ran out of memory"] = sample(*parts)
        made["trained with LoRA"]["too little memory"] = train(*adapted)
        made["sampled"]["too little memory"] = sample(*parts)
        made["classified"]["too little memory"] = classify(*parts)
        moves = {"evictions": Vram.evictions - before[0], "refused": Vram.refused - before[1]}
        said = unprotected(parts)
    fingerprints.append(fingerprint(*parts))
    made["trained"]["afterwards"] = train(*parts)
    pinned = sum(sum(one.pins.values()) for one in Vram.alive())
    return made, {"fingerprints": fingerprints, "unprotected": said, "pinned": pinned, **moves}


def load(folder: Path, family: str, precise: bool = False) -> Parts:
    """MODEL, CLIP, VAE and, of the pocket checkpoint, a CLIP space; as loader nodes make them.

    ``precise``: the text encoders' weights in float32. In half precision a LoRA's are rounded at random, by another seed in
    each of the host's loaders.
    """
    from mcti_core.hosts.comfy.pocket import load_pocket_parts
    from mcti_core.pocket import POCKET_FOLDER

    if family == "pocket":
        with torch.inference_mode():
            parts = load_pocket_parts(POCKET_FOLDER)
        return parts.model, parts.clip, parts.vae, parts.clip_file
    if family not in CHECKPOINTS:
        from small_families import small_family

        return *small_family(family), None
    path = folder / f"{family}.ckpt"
    if not path.exists():
        CHECKPOINTS[family](path)
    return *load_checkpoint(path, text_dtype=torch.float32 if precise else None), None


def with_lora(parts: Parts, family: str) -> Parts:
    model, clip, vae, clip_file = parts
    with torch.inference_mode():
        model = patched(model, ADAPTED.get(family, "attn2.to_k.weight"))
        return model, patched(clip, ADAPTED_TEXT.get(family, "self_attn.q_proj.weight")), vae, clip_file


def fingerprint(model: Any, clip: Any, vae: Any, clip_file: Any) -> str:
    from mcti_core.hosts.comfy.host import comfy_host

    return comfy_host(clip, model, vae, clip_file).fingerprint


@torch.inference_mode()
def encode(vae: Any) -> None:
    vae.encode(torch.rand(1, 64, 64, 3, generator=generator()))


@torch.inference_mode(False)
@torch.no_grad()
def train(model: Any, clip: Any, vae: Any, clip_file: Any, **settings: Any) -> dict[str, Tensor]:
    """Vectors after STEPS steps from the same start."""
    from mcti_core.data.feature_cache import FeatureCache
    from mcti_core.hosts.comfy.host import comfy_host
    from mcti_core.training.initial import new_tokens
    from mcti_core.training.loop import TrainConfig
    from mcti_core.training.loop import train as learn

    host, dataset = comfy_host(clip, model, vae, clip_file), two_images()
    cache = FeatureCache.build(host, dataset, hflip=False, size=64)
    gamma = 0.0 if clip_file is None else 0.1
    usual = {
        "steps": STEPS,
        "batch_size": 2,
        "lr": 0.02,
        "gamma": gamma,
        "lr_warmup_steps": 0,
        "templates": ("a photo of a {}",),
    }
    config = TrainConfig(**{**usual, **settings})
    return dict(learn(host, cache, new_tokens(host, dataset.classes), config).tokens.vectors)


@torch.inference_mode()
def sample(model: Any, clip: Any, *_: Any) -> Tensor:
    """As KSampler does, from prompts as CLIP Text Encode makes them."""
    import nodes

    conditions = [nodes.CLIPTextEncode().encode(clip, text)[0] for text in ("a photo of a boat", "")]
    latent = {"samples": torch.zeros(1, channels(model), 8, 8)}
    return nodes.common_ksampler(model, 1, 2, 2.0, "euler", "normal", *conditions, latent)[0]["samples"].clone()


@torch.inference_mode(False)
@torch.no_grad()
def classify(model: Any, clip: Any, vae: Any, clip_file: Any) -> Tensor:
    """Scores by the diffusion classifier, and by CLIP where there is a CLIP space."""
    from mcti_core.classifiers.clip import ClipClassifier
    from mcti_core.classifiers.diffusion import DiffusionClassifier
    from mcti_core.hosts.comfy.host import comfy_host
    from mcti_core.training.initial import new_tokens

    host = comfy_host(clip, model, vae, clip_file)
    tokens = new_tokens(host, ("first", "second"), initializer_token="random", seed=1)
    images = torch.rand(1, 3, 64, 64, generator=generator(7))
    scores = [DiffusionClassifier(host, tokens, num_trials=4, alpha=0).scores(images).logits]
    if clip_file is not None:
        scores.append(ClipClassifier(host, tokens).scores(images).logits)
    return torch.cat(scores)


@contextmanager
def too_little_memory() -> Iterator[None]:
    """Weights do not fit, and more of them are unmapped whenever a backward begins."""
    import mcti_core.training.step

    stock = mcti_core.training.step.reconstruction_loss

    def pressing(*arguments: Any, **options: Any) -> Tensor:
        losses = stock(*arguments, **options)
        losses.register_hook(lambda gradient: pressure(300 * 2**20))
        return losses

    mcti_core.training.step.reconstruction_loss, Vram.budget = pressing, LITTLE
    try:
        yield
    finally:
        mcti_core.training.step.reconstruction_loss, Vram.budget = stock, MUCH


@contextmanager
def running_out() -> Iterator[None]:
    """Twice, memory runs out while an operation that found no page gets its own copy of a weight."""
    import mcti_core.hosts.comfy.weights as weights

    copy, copies = weights._private_copy, count()

    def failing(weight: Tensor) -> Tensor:
        if torch.is_grad_enabled() and next(copies) in (20, 60):
            raise torch.OutOfMemoryError("out of memory")
        return copy(weight)

    weights._private_copy = failing
    try:
        yield
    finally:
        weights._private_copy = copy


def unprotected(parts: Parts) -> str:
    """What is said where operations compute with the host's own memory, as if nobody had known better."""
    import mcti_core.hosts.comfy.weights as weights
    from mcti_core.errors import HostError

    def shared(weight: Tensor) -> Tensor:
        return weight if not weight.is_inference() else weight.clone()

    protecting: Callable[[Tensor], Tensor] = weights._private_copy
    weights._private_copy = shared
    try:
        train(*parts)
        return ""
    except HostError as error:
        return str(error)
    finally:
        weights._private_copy = protecting


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3], sys.argv[4])
