import math
from dataclasses import replace

import pytest
import torch
from torch.nn import Parameter

from mcti_core.distributed import SINGLE_PROCESS
from mcti_core.tokens.encoders import CLIP_FOR_CLASSIFYING
from mcti_core.training.adaptive_gamma import AdaptiveGamma
from mcti_core.training.checkpoint import load_checkpoint, save_checkpoint
from mcti_core.training.config import TrainConfig
from mcti_core.training.loop import train
from mcti_core.training.resume import run_identity

AUTO = TrainConfig(
    steps=6, classification_only_steps=2, batch_size=4, lr=1e-2, lr_warmup_steps=0, gamma="auto", templates=("a photo of a {}", "a drawing of the {}")
)  # fmt: skip


def _bits(vectors):
    return {name: vector.numpy().tobytes() for name, vector in vectors.items()}


def _stepped(scales=(1.0, 1.0), weight=1.0, steps=3, ratio=0.7):
    """Of a toy problem whose second vector only the first term reaches: (gradients, terms, norms of each step's terms)."""
    vectors = {"a": Parameter(torch.tensor([1.0, -2.0])), "b": Parameter(torch.tensor([3.0]))}
    adaptive, seen = AdaptiveGamma(ratio, "cpu"), []
    for step in range(steps):
        for vector in vectors.values():
            vector.grad = None
        a, b = vectors["a"] * (1 + step), vectors["b"]
        terms = {
            "reconstruction": scales[0] * (a[0] ** 2 + a.sum() * b.sum()),
            "classification": scales[1] * a.exp().sum(),
        }
        adaptive.backward(terms, weight, vectors, SINGLE_PROCESS)
        seen.append(({name: vector.grad.clone() for name, vector in vectors.items()}, terms))
    return seen


@pytest.mark.parametrize(
    ("scales", "weight", "factor"), [((1, 1e3), 1, 1), ((1, 1e-4), 1, 1), ((50, 1), 1, 50), ((1, 1), 8, 8)]
)
def test_step_keeps_its_direction_when_a_term_is_scaled(scales, weight, factor):
    for (plain, _), (scaled, _) in zip(_stepped(), _stepped(scales, weight), strict=True):
        for name, gradient in plain.items():
            torch.testing.assert_close(scaled[name], factor * gradient, rtol=1e-5, atol=0.0)


def test_gamma_is_the_ratio_of_the_averaged_norms():
    averages = [0.0, 0.0]
    for step, (gradients, terms) in enumerate(_stepped(ratio=0.4)):
        a, b = torch.tensor([1.0, -2.0], requires_grad=True), torch.tensor(3.0)
        scaled = a * (1 + step)
        (reconstruction,) = torch.autograd.grad(scaled[0] ** 2 + scaled.sum() * b, a)
        (classification,) = torch.autograd.grad((a * (1 + step)).exp().sum(), a)
        norms = reconstruction.norm(), classification.norm()
        averages = [0.9 * old + 0.1 * float(new) for old, new in zip(averages, norms, strict=True)]
        gamma = 0.4 * averages[0] / averages[1]
        assert float(terms["gamma"]) == pytest.approx(gamma, rel=1e-5)
        torch.testing.assert_close(gradients["a"], reconstruction + gamma * classification)
        assert float(terms["loss"]) == pytest.approx(float(terms["reconstruction"] + gamma * terms["classification"]))


def test_gamma_is_one_where_the_terms_have_no_vector_in_common():
    """As with vectors for classifying, which only the classification term reaches."""
    vectors = {"t5xxl": Parameter(torch.tensor([3.0])), CLIP_FOR_CLASSIFYING: Parameter(torch.tensor([1.0]))}
    terms = {
        "reconstruction": vectors["t5xxl"].square().sum(),
        "classification": vectors[CLIP_FOR_CLASSIFYING].exp().sum(),
    }
    AdaptiveGamma(0.7, "cpu").backward(terms, 1.0, vectors, SINGLE_PROCESS)
    assert float(terms["gamma"]) == 1.0
    assert vectors["t5xxl"].grad.tolist() == [6.0]
    assert torch.allclose(vectors[CLIP_FOR_CLASSIFYING].grad, torch.tensor([1.0]).exp())


def test_classification_that_fades_lifts_gamma_a_hundredfold_at_most():
    adaptive, gammas = AdaptiveGamma(1.0, "cpu"), []
    for fading in 10.0 ** -torch.arange(12.0):
        vectors = {"a": Parameter(torch.ones(2))}
        for _ in range(60):  # until the averages are those of these two terms
            terms = {"reconstruction": vectors["a"].sum(), "classification": fading * vectors["a"].sum()}
            adaptive.backward(terms, 1.0, vectors, SINGLE_PROCESS)
            vectors["a"].grad = None
        gammas.append(float(terms["gamma"]))
    assert gammas[:3] == pytest.approx([1.0, 10.0, 100.0], rel=0.05)
    assert gammas[3:] == pytest.approx([100.0] * 9, rel=0.01)


def test_classification_without_a_gradient_leaves_numbers_finite():
    vectors = {"a": Parameter(torch.ones(2))}
    terms = {"reconstruction": vectors["a"].sum(), "classification": 0 * vectors["a"].sum()}
    AdaptiveGamma(1.0, "cpu").backward(terms, 1.0, vectors, SINGLE_PROCESS)
    assert torch.equal(vectors["a"].grad, torch.ones(2))
    assert all(torch.isfinite(term) for term in terms.values())


def test_training_with_auto_equals_one_with_the_gammas_it_found(tiny_host, cache, tokens):
    """One step: gamma as a number takes the usual way through one loss."""
    config = replace(AUTO, steps=1, classification_only_steps=0)
    found = train(tiny_host, cache, tokens, config)
    (gamma,) = found.history["gamma"]
    assert found.tokens.training["gamma_last"] == gamma > 0
    plain = train(tiny_host, cache, tokens, replace(config, gamma=gamma))
    assert plain.history["loss"] == pytest.approx(found.history["loss"], rel=1e-5)
    for name, vectors in found.tokens.vectors.items():
        torch.testing.assert_close(vectors, plain.tokens.vectors[name], rtol=1e-4, atol=1e-5)


def test_denoiser_and_text_encoder_run_as_often_as_with_a_number(tiny_host, cache, tokens):
    counts = []
    for gamma in (0.5, "auto"):
        calls = {"forward": 0, "backward": 0}
        module = tiny_host.denoiser.unet
        hooks = [
            module.register_forward_hook(lambda *_, calls=calls: calls.update(forward=calls["forward"] + 1)),
            module.conv_out.register_full_backward_hook(
                lambda *_, calls=calls: calls.update(backward=calls["backward"] + 1)
            ),
        ]
        train(tiny_host, cache, tokens, replace(AUTO, gamma=gamma))
        for hook in hooks:
            hook.remove()
        counts.append(calls)
    assert counts[0] == counts[1] == {"forward": 6, "backward": 6}


def test_resumed_training_is_the_same_to_the_bit(tiny_host, cache, tokens, tmp_path):
    states = []
    whole = train(tiny_host, cache, tokens, AUTO, on_step=lambda info: states.append(info.state()))
    for state in (states[0], states[4]):  # with the classification term only, and after that
        path = save_checkpoint(state, tmp_path / "training.safetensors")
        rest = train(tiny_host, cache, tokens, AUTO, resume=load_checkpoint(path))
        assert _bits(rest.tokens.vectors) == _bits(whole.tokens.vectors)
        assert repr(rest.history) == repr(whole.history)
        assert rest.tokens.training == whole.tokens.training


def test_a_number_leaves_no_trace_of_it(tiny_host, cache, tokens):
    plain = train(tiny_host, cache, tokens, replace(AUTO, gamma=0.5))
    assert all(math.isnan(gamma) for gamma in plain.history["gamma"])
    assert not {"gamma_last", "gradient_ratio"} & set(plain.tokens.training)
    assert "gradient_ratio" not in run_identity(tiny_host, cache, tokens, replace(AUTO, gamma=0.5))
