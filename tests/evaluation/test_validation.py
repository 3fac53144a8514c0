from dataclasses import replace

import pytest
import torch

from mcti_core.classifiers.clip import ClipClassifier
from mcti_core.data.dataset import FewShotDataset
from mcti_core.data.feature_cache import FeatureCache
from mcti_core.errors import TokenError
from mcti_core.evaluation.validation import Validation, class_prompts
from mcti_core.sampling import generate
from mcti_core.training.loop import TrainConfig, train

CONFIG = TrainConfig(steps=5, batch_size=2, lr=1e-2, lr_warmup_steps=0, gamma=1.0, templates=("a photo of a {}",))


def same(first, second):
    return all(torch.equal(v, second.vectors[name]) for name, v in first.vectors.items())


@pytest.fixture
def held_out(tiny_host):
    """Four images of two of the three classes, in another order."""
    generator = torch.Generator().manual_seed(9)
    images = {name: torch.rand(2, 3, 32, 32, generator=generator) for name in ("c", "a")}
    return FeatureCache.build(tiny_host, FewShotDataset.from_images(images), hflip=False, latents=False)


@pytest.fixture
def few_steps(monkeypatch):
    """Samples of two denoising steps."""
    monkeypatch.setattr(
        "mcti_core.evaluation.validation.generate", lambda *a, **k: generate(*a, **k, num_inference_steps=2)
    )


def test_training_is_the_same_to_the_bit_with_samples_and_accuracy(tiny_host, cache, tokens, held_out, few_steps):
    shown, images = [], {}
    looking = Validation(
        tiny_host, 2, ("a photo of a {}", "a {b} on snow"), held_out, seed=3, show=lambda step, _: shown.append(step)
    )

    def on_step(info):
        looking.on_step(info)
        images[info.step] = dict(looking.images)

    watched = train(tiny_host, cache, tokens, CONFIG, on_step=on_step)
    plain = train(tiny_host, cache, tokens, CONFIG)
    assert same(watched.tokens, plain.tokens)
    assert watched.history["loss"] == plain.history["loss"]
    assert shown == list(looking.accuracies) == [2, 4, 5]
    assert [step for step, found in images.items() if found] == [2, 4, 5]
    assert {prompt: len(those) for prompt, those in images[5].items()} == {"a photo of a {}": 3, "a {b} on snow": 1}
    again = generate(tiny_host, ["a photo of a {a}"], watched.tokens, seed=3, num_inference_steps=2)
    assert torch.allclose(images[5]["a photo of a {}"][0], again[0], atol=1e-4)


def test_accuracy_is_that_of_the_classifier_on_the_held_out_images(tiny_host, tokens, held_out):
    class Info:
        step, total = 1, 1
        tokens = staticmethod(lambda: tokens)

    looking = Validation(tiny_host, 1, held_out=held_out)
    looking.on_step(Info)
    answers = ClipClassifier(tiny_host, tokens).logits(held_out.features[:, 0]).argmax(1)
    labels = [tokens.labels[i] for i in answers.tolist()]
    assert looking.accuracies == {1: sum(a == b for a, b in zip(labels, ["c", "c", "a", "a"], strict=True)) / 4}


def test_sample_that_fails_is_reported_once_and_costs_nothing(tiny_host, cache, tokens, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no memory")

    monkeypatch.setattr("mcti_core.evaluation.validation.generate", fail)
    told = []
    looking = Validation(tiny_host, 1, ("{}",), log=told.append)
    result = train(tiny_host, cache, tokens, CONFIG, on_step=looking.on_step)
    assert told == ["validation failed, training continues: no memory"]
    assert result.stop_reason == "max_steps"
    assert same(result.tokens, train(tiny_host, cache, tokens, CONFIG).tokens)


def test_cancel_of_the_host_and_ctrl_c_pass_through(tiny_host, cache, tokens, monkeypatch):
    class CancelError(Exception):
        pass

    def cancel(*_, **__):
        raise CancelError

    monkeypatch.setattr("mcti_core.evaluation.validation.generate", cancel)
    looking = Validation(tiny_host, 1, ("{}",), passing=(CancelError,))
    with pytest.raises(CancelError):
        train(tiny_host, cache, tokens, CONFIG, on_step=looking.on_step)
    monkeypatch.setattr(
        "mcti_core.evaluation.validation.generate", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    result = train(tiny_host, cache, tokens, CONFIG, on_step=replace(looking, passing=()).on_step)
    assert result.stop_reason == "interrupted"


def test_prompts_are_those_of_the_first_eight_classes():
    names = tuple(f"n{index}" for index in range(10))
    assert class_prompts("a {} here", names) == [f"a {{n{index}}} here" for index in range(8)]
    assert class_prompts("a {n9}", names) == ["a {n9}"]
    with pytest.raises(TokenError):
        class_prompts("a {n11}", names)
