"""Interrupt trainings inside ComfyUI in every way, and compare its models before and after.

Usage: python sessions_in_comfyui.py COMFYUI_FOLDER

The pocket checkpoint as loader nodes make it, with patches as LoRA nodes lay them and another sampling. Prints a line of JSON:
by way, what was different afterwards (weights, attributes, flags, one by one), whether the host's own generation was
different, and how the way ended; and what trainings gave whose ``on_step`` did something else in between.
"""

import sys
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from in_comfyui import changes, gap, generator, patched, snapshot, start, tell


@dataclass
class Models:
    """What is used and must come back: the parts, a host of them, and a training."""

    model: Any
    clip: Any
    vae: Any
    clip_file: Any
    host: Any = None
    cache: Any = None
    tokens: Any = None

    def snapshot(self) -> dict[str, Any]:
        vision = self.clip_file.vision
        return snapshot(model=self.model, clip=self.clip, vae=self.vae, vision=vision)

    @torch.inference_mode()
    def generated(self) -> torch.Tensor:
        """As KSampler does, from prompts as CLIP Text Encode makes them."""
        import nodes

        conditions = [nodes.CLIPTextEncode().encode(self.clip, text)[0] for text in ("a drawing of a glyph", "")]
        latent = {"samples": torch.zeros(1, 4, 8, 8)}
        return nodes.common_ksampler(self.model, 1, 3, 2.0, "euler", "normal", *conditions, latent)[0]["samples"]

    @torch.inference_mode(False)
    @torch.no_grad()
    def trained(self, on_step: Any = None, **settings: Any) -> torch.Tensor:
        from mcti_core.training.loop import TrainConfig, train

        config = TrainConfig(**{"steps": 4, "batch_size": 4, "lr": 2e-2, "templates": ("a drawing of {}",), **settings})
        return train(self.host, self.cache, self.tokens, config, on_step=on_step).tokens.vectors["clip_l"]


def main(comfyui: str) -> None:
    start(comfyui)
    untouched, fresh = load(), load()
    fresh.trained()  # the first that loads them at all
    models = load()
    models.generated()
    tell(
        {
            "ways": {name: go(models, way) for name, way in WAYS.items()},
            "trainings": {
                name: gap(models.trained(while_(models)), models.trained()) for name, while_ in BETWEEN.items()
            },
            "after all": changes_of_bits(untouched, models),
            "loaded by a training": changes_of_bits(untouched, fresh),
            "generated after a training alone": gap(fresh.generated(), untouched.generated()),
            "gradients": gradients(models),
            "in training": in_training(models),
        }
    )


def load() -> Models:
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    from mcti_core.data.feature_cache import FeatureCache
    from mcti_core.hosts.comfy.host import comfy_host
    from mcti_core.hosts.comfy.pocket import load_pocket_parts
    from mcti_core.pocket import POCKET_FOLDER
    from mcti_core.training.initial import new_tokens

    with torch.inference_mode():
        parts = load_pocket_parts(POCKET_FOLDER)
        model = ModelSamplingDiscrete().patch(patched(parts.model, "attn2.to_k.weight"), "eps", False)[0]
        clip = patched(parts.clip, "self_attn.q_proj.weight")
    models = Models(model, clip, parts.vae, parts.clip_file)
    models.host = comfy_host(clip, model, parts.vae, parts.clip_file)
    dataset = three_digits()
    models.cache = FeatureCache.build(models.host, dataset, hflip=False)
    models.tokens = new_tokens(models.host, dataset.classes)
    return models


@cache
def three_digits():
    from mcti_core.data.dataset import FewShotDataset
    from mcti_core.pocket.digits import digit_dataset

    images = digit_dataset().images
    return FewShotDataset.from_images({str(i): [images[i]] for i in range(3)})


def go(models: Models, way: Callable[[Models], object]) -> dict[str, Any]:
    """A way between two generations of the host's own."""
    image, before = models.generated(), models.snapshot()
    if not any(".patcher.backup." in key or key.startswith("model itself.backup.") for key in before):
        raise RuntimeError("the patches are not in use")
    try:
        way(models)
        ended = "well"
    except BaseException as error:  # the host's cancel is one since v0.19.3
        ended = type(error).__name__
    different = changes(before, models.snapshot())
    return {"ended": ended, "different": different, "generated": gap(models.generated(), image)}


# -- ways ----------------------------------------------------------------------------------------------------------------


def failing(models: Models) -> None:
    def on_step(info: Any) -> None:
        raise ZeroDivisionError

    models.trained(on_step)


def cancelled(models: Models) -> None:
    """By the host's own exception, as a progress bar raises it."""
    import comfy.model_management

    def on_step(info: Any) -> None:
        comfy.model_management.interrupt_current_processing()
        comfy.model_management.throw_exception_if_processing_interrupted()

    models.trained(on_step)


def cancelled_in_the_vae(models: Models) -> None:
    import comfy.model_management

    def decode(latents: Any) -> None:
        raise comfy.model_management.InterruptProcessingException

    with replaced(models.vae, "decode", decode):
        models.trained(lambda info: models.host.codec.decode(models.cache.latents[:, 0]))


def not_loaded(models: Models) -> None:
    """Memory runs out once, before the training begins; it is tried again with less."""
    with loading_fails():
        models.trained()


def not_loaded_again(models: Models) -> None:
    """Memory runs out when the VAE is done and the models should come back."""

    def on_step(info: Any) -> None:
        with models.host.session("text", "denoiser"), loading_fails(after=1):
            models.host.codec.decode(models.cache.latents[:, 0])

    models.trained(on_step)


def nested(models: Models) -> None:
    session = models.host.session
    with session("text", gradients=True), session("clip"), session("denoiser", gradients=True), session("codec"):
        models.host.codec.decode(models.cache.latents[:, 0])
        raise KeyError


def features(models: Models) -> None:
    from mcti_core.data.feature_cache import FeatureCache

    FeatureCache.build(models.host, three_digits())


WAYS: dict[str, Callable[[Models], object]] = {
    "training": Models.trained,
    "training with gradient checkpointing": lambda models: models.trained(gradient_checkpointing=True),
    "an error in on_step": failing,
    "cancelled": cancelled,
    "cancelled in the VAE": cancelled_in_the_vae,
    "not loaded": not_loaded,
    "not loaded again": not_loaded_again,
    "nested": nested,
    "features": features,
    "generating": lambda models: draw(models),
    "classifying": lambda models: classify(models),
    "generating in on_step": lambda models: models.trained(lambda info: draw(models)),
    "classifying in on_step": lambda models: models.trained(lambda info: classify(models)),
}


# -- what on_step may do without changing the training -------------------------------------------------------------------


def draw(models: Models) -> torch.Tensor:
    from mcti_core.sampling import generate

    return generate(models.host, ["a drawing of a glyph"], num_inference_steps=2)


def classify(models: Models) -> None:
    from mcti_core.classifiers.clip import ClipClassifier
    from mcti_core.classifiers.diffusion import DiffusionClassifier

    images = torch.rand(1, 3, 64, 64, generator=generator())
    ClipClassifier(models.host, models.tokens).scores(images)
    DiffusionClassifier(models.host, models.tokens, num_trials=2, alpha=0).scores(images)


def fail_to_load(models: Models) -> None:
    """A session inside that cannot have what it wants."""
    try:
        with loading_fails(), models.host.session("clip"):
            raise RuntimeError("it was loaded")
    except MemoryError:
        pass


BETWEEN: dict[str, Callable[[Models], Any]] = {
    "generating": lambda models: lambda info: draw(models),
    "classifying": lambda models: lambda info: classify(models),
    "failing to load": lambda models: lambda info: fail_to_load(models),
    "decoding": lambda models: lambda info: models.host.codec.decode(models.cache.latents[:, 0]),
}


# -- and what is left of it all ------------------------------------------------------------------------------------------


def changes_of_bits(untouched: Models, models: Models) -> list[str]:
    """Of weights against models that nobody has used, when no patch is in use any more."""
    import comfy.model_management

    comfy.model_management.unload_all_models()
    pairs = [
        (untouched.model.model, models.model.model),
        (untouched.clip.cond_stage_model, models.clip.cond_stage_model),
        (untouched.vae.first_stage_model, models.vae.first_stage_model),
        (untouched.clip_file.vision.model, models.clip_file.vision.model),
    ]
    return [
        name
        for a, b in pairs
        for (name, first), second in zip(a.state_dict().items(), b.state_dict().values(), strict=True)
        if not torch.equal(first, second)
    ]


def gradients(models: Models) -> dict[str, Any]:
    """Inside a session: what asks for gradients, and what is marked as made in inference mode."""
    modules = {
        "text": models.clip.cond_stage_model,
        "denoiser": models.model.model,
        "clip": models.clip_file.vision.model,
    }
    found = {}
    for name, module in modules.items():
        with models.host.session(name, gradients=True):
            weights = [*module.parameters(), *module.buffers()]
            found[name] = [sum(w.requires_grad for w in weights), sum(w.is_inference() for w in weights), len(weights)]
    return found


def in_training(models: Models) -> list[Any]:
    """The host's mark of a training: before, inside of two sessions with gradients and one without, and after a failure."""
    import comfy.model_management

    def mark() -> Any:
        return getattr(comfy.model_management, "in_training", None)

    seen, session = [mark()], models.host.session
    try:
        with session("text", gradients=True), session("denoiser", gradients=True):
            seen.append(mark())
            raise KeyError
    except KeyError:
        seen.append(mark())
    with session("text"):
        seen.append(mark())
    return seen


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Any:
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is None:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


@contextmanager
def loading_fails(after: int = 0) -> Any:
    """The host's memory manager gives up once, after so many times that it does not."""
    import comfy.model_management

    load, calls = comfy.model_management.load_models_gpu, []

    def once(*args: Any, **options: Any) -> Any:
        calls.append(1)
        if len(calls) == after + 1:
            raise MemoryError
        return load(*args, **options)

    with replaced(comfy.model_management, "load_models_gpu", once):
        yield


if __name__ == "__main__":
    main(sys.argv[1])
