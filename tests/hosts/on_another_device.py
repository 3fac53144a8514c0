"""Train, classify and draw on the CPU and on another device, and print the differences as JSON.

Usage: python -m tests.hosts.on_another_device MODEL CLIP elsewhere|cuda

``elsewhere`` is the simulated device of ``fake_device.py``. On ``cuda``, waits and copies that wait are counted together, by PyTorch's
own warnings.
"""

import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import torch

from mcti_core.classifiers.calibration import calibrate
from mcti_core.classifiers.cascade import CascadeClassifier
from mcti_core.classifiers.clip import ClipClassifier
from mcti_core.classifiers.diffusion import DiffusionClassifier
from mcti_core.classifiers.hybrid import HybridClassifier
from mcti_core.data.dataset import FewShotDataset
from mcti_core.data.feature_cache import FeatureCache
from mcti_core.hosts.diffusers.host import load_host
from mcti_core.hosts.diffusers.loading import quiet_libraries
from mcti_core.sampling import generate
from mcti_core.tokens.token_set import TokenSet
from mcti_core.training.config import TrainConfig
from mcti_core.training.errors import StopTraining
from mcti_core.training.loop import train
from mcti_core.training.saved_tensors import saved_tensors_verified

CUDA = "cuda"
BASE = TrainConfig(steps=4, batch_size=6, lr=1e-3, templates=("a photo of a {}", "a drawing of a {}"))
TRAININGS = {
    "both terms": BASE,
    "17 steps": replace(BASE, steps=17),
    "33 steps": replace(BASE, steps=33),
    "gamma 0": replace(BASE, gamma=0.0),
    "classification alone": replace(BASE, reconstruction_weight=0.0, gamma=1.0),
    "micro-batches": replace(BASE, micro_batch_size=2),
    "checkpointing": replace(BASE, gradient_checkpointing=True),
    "probe": replace(BASE, eval_steps=1),
    "classification-only steps": replace(BASE, classification_only_steps=3),
    "few classes a step": replace(BASE, batch_size=2, max_classes_per_step=2),
    "pooling at the token": replace(BASE, pooling="token", direction="symmetric"),
}


def compared(run, hosts, watched):
    """The largest difference between what ``run`` gives on both devices, and what had to be waited for and copied there."""
    here = run(hosts[0])
    there, waits, copies = watched(lambda: run(hosts[1]))
    apart = max((a - b.cpu()).abs().max().item() for a, b in zip(here, there, strict=True))
    return {"apart": apart, "waits": waits, "copies": copies}


def on_the_fake_device(run):
    from .fake_device import COPIES, WAITS

    WAITS.clear()
    COPIES.clear()
    found = run()
    return found, len(WAITS), list(COPIES)


def on_a_gpu(run):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            found = run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return found, sum("synchronizing CUDA operation" in str(warning.message) for warning in told), []


def main(model, clip, device):
    if device == CUDA:
        torch.backends.cudnn.allow_tf32 = False  # convolutions would round to 10 bits of mantissa
        watched = on_a_gpu
    else:
        from .fake_device import DEVICE

        device = DEVICE
        watched = on_the_fake_device
    generator = torch.Generator().manual_seed(1)
    data = FewShotDataset.from_images(
        {name: torch.rand(count, 3, 32, 32, generator=generator) for name, count in (("a", 2), ("b", 3), ("c", 4))}
    )
    hosts = [load_host(model, clip, device=device) for device in ("cpu", device)]
    cache = FeatureCache.build(hosts[0], data)
    vectors = {name: torch.randn(3, 2, encoder.width, generator=generator) for name, encoder in hosts[0].text.items()}
    tokens = TokenSet(data.classes, vectors, templates=BASE.templates, support=cache.support())
    images = torch.stack(list(data.load(32)))

    def features(host):
        built = FeatureCache.build(host, data)
        return [built.latents, built.features]

    def trained(config):
        return lambda host: list(train(host, cache, tokens, config).tokens.vectors.values())

    beside = replace(
        cache,
        captions=("a {} on grass", "", "{}, at home") * 3,
        masks=torch.rand(9, 2, 8, 8, generator=generator),
        sizes=torch.tensor([[8, 8], [4, 8], [8, 4]] * 3),
    )

    def with_beside(host):
        return list(train(host, beside, tokens, BASE).tokens.vectors.values())

    def resumed(host):
        states = []

        def stop(info):
            states.append(info.state)
            if info.step == 2:
                raise StopTraining

        train(host, cache, tokens, BASE, on_step=stop)
        return list(train(host, cache, tokens, BASE, resume=states[-1]()).tokens.vectors.values())

    def verified(host):
        """Autograd saves the tensor there, and the number on the CPU."""
        x = torch.ones(3).to(host.device).requires_grad_()
        with saved_tensors_verified():
            (x.square() * torch.tensor(2.0)).sum().backward()
        return [x.grad]

    def scored(make):
        def run(host):
            classifier = make(host)
            scores = classifier.scores(images)
            return [scores.logits, scores.evaluations.float()]

        return run

    def hybrid(host):
        classifier = HybridClassifier(host, tokens)
        calibrate(classifier, tokens)
        return classifier

    def diffusion(host):
        return DiffusionClassifier(host, tokens, num_trials=8)

    runs = {"features": features, "resumed": resumed}
    runs |= {f"training, {name}": trained(config) for name, config in TRAININGS.items()}
    runs["verified"] = verified
    runs["training, captions, masks and buckets"] = with_beside
    runs["clip"] = scored(lambda host: ClipClassifier(host, tokens))
    runs["hybrid"] = scored(hybrid)
    runs["diffusion"] = scored(diffusion)
    runs["cascade"] = scored(lambda host: CascadeClassifier(ClipClassifier(host, tokens), diffusion(host)))
    runs["images"] = lambda host: [generate(host, ["a photo of {a}", "a {b} and {c}"], tokens, num_inference_steps=3)]
    print(json.dumps({name: compared(run, hosts, watched) for name, run in runs.items()}))


if __name__ == "__main__":
    quiet_libraries()
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
