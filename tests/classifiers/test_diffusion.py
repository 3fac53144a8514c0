import math
import statistics
from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F

from mcti_core.classifiers import diffusion
from mcti_core.classifiers.diffusion import DiffusionClassifier
from mcti_core.errors import ConfigError
from mcti_core.hosts.base import Host
from mcti_core.hosts.features import TextFeatures
from mcti_core.noise_levels import spread_sigmas
from mcti_core.pocket import load_pocket
from mcti_core.pocket.recipe.quality import word_tokens
from mcti_core.sampling import generate
from mcti_core.tokens.token_set import TokenSet

SHORT = {"num_trials": 6, "alpha": 0.3}
"""A small budget for the diffusion classifier."""


@dataclass
class WordlessEncoder:
    """A text encoder of one number a token, which hands on what it is given."""

    width: int = 1
    length: int = 8
    vocabulary_size: int = 4
    bos_token_id: int = 1
    eos_token_id: int = 2
    pad_token_id: int = 3

    def tokenize(self, text):
        return []

    def embed(self, ids):
        return torch.zeros(*ids.shape, 1)

    def encode(self, ids, embeds):
        return TextFeatures(embeds, embeds)


@dataclass
class KnownErrors:
    """A denoiser whose noise error for the zero latent is ``error(class, sigma)``; it notes each pair it is asked."""

    table: torch.Tensor
    sigmas: torch.Tensor = field(default_factory=lambda: torch.linspace(0.1, 10, 1000))
    asked: list = field(default_factory=list)

    def error(self, label: int, sigma: float) -> float:
        step = int((self.sigmas - sigma).abs().argmin())
        return float(self.table[label, step % self.table.shape[1]])

    def noised(self, latents, noise, sigma):
        return latents + noise * sigma.view(-1, 1, 1, 1)

    def denoise(self, noised, sigma, text):
        labels = text["plain"].context[:, 1, 0].long().tolist()
        self.asked += list(zip(labels, sigma.tolist(), strict=True))
        offsets = [s * self.error(c, s) ** 0.5 for c, s in zip(labels, sigma.tolist(), strict=True)]
        return torch.tensor(offsets).view(-1, 1, 1, 1).expand(noised.shape)

    def weight(self, sigma):
        return torch.ones_like(sigma)


def known_errors(table, **options):
    """A diffusion classifier over ``table``'s classes, and its denoiser."""
    denoiser = KnownErrors(table)
    host = Host({"plain": WordlessEncoder()}, denoiser, codec=object())  # codec: latents are given
    numbers = torch.arange(len(table)).float().view(-1, 1, 1)
    tokens = TokenSet(tuple(f"class {i}" for i in range(len(table))), {"plain": numbers}, templates=("{}",))
    return DiffusionClassifier(host, tokens, **options), denoiser


def test_diffusion_on_all_pairs_by_plain_loops(tiny_host, tiny_model, tokens, cache):
    from diffusers import DDPMScheduler

    pairs, unet, latents = 4, tiny_host.denoiser.unet, cache.latents[:2, 0]
    classifier = DiffusionClassifier(
        tiny_host, tokens, num_trials=pairs, alpha=0, t_min=0.2, t_max=0.8, seed=5, batch_size=7
    )
    scheduler = DDPMScheduler.from_pretrained(tiny_model, subfolder="scheduler")
    generator = torch.Generator().manual_seed(5)
    sigmas = spread_sigmas(tiny_host.denoiser.sigmas, pairs, generator, 0.2, 0.8)
    noises = torch.randn(pairs, 4, 8, 8, generator=generator)
    expected = torch.zeros(2, 3)
    for image in range(2):
        for label in range(3):
            for sigma, noise in zip(sigmas, noises, strict=True):
                step = (tiny_host.denoiser.sigmas == sigma).nonzero()[0]
                noisy = scheduler.add_noise(latents[image : image + 1], noise[None], step)
                context = classifier.conditioning["clip_l"].context[label : label + 1]
                with torch.no_grad():
                    predicted = unet(noisy, step, encoder_hidden_states=context).sample
                expected[image, label] += F.mse_loss(predicted, noise[None]) / pairs
    scores = classifier.score_latents(latents)
    assert torch.allclose(scores.logits, -100 * expected, rtol=1e-4)
    assert scores.evaluations.tolist() == [3 * pairs] * 2


def test_diffusion_scores_images_by_their_latents(tiny_host, tokens, images, cache):
    classifier = DiffusionClassifier(tiny_host, tokens, **SHORT)
    expected = classifier.score_latents(cache.latents[:, 0]).logits
    assert torch.allclose(classifier.scores(images).logits, expected, atol=1e-4)


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_batch_size_does_not_change_answers(tiny_host, tokens, cache, batch):
    plain = DiffusionClassifier(tiny_host, tokens, **SHORT).score_latents(cache.latents[:3, 0])
    other = DiffusionClassifier(tiny_host, tokens, batch_size=batch, **SHORT).score_latents(cache.latents[:3, 0])
    assert torch.allclose(other.logits, plain.logits, atol=1e-4)
    assert torch.equal(other.evaluations, plain.evaluations)


def random_table(seed, classes=6):
    return torch.rand(classes, 997, generator=torch.Generator().manual_seed(seed)) + 0.1


def test_evaluations_are_counted_image_by_image():
    classifier, denoiser = known_errors(random_table(0), num_trials=20)
    scores = classifier.score_latents(torch.zeros(1, 4, 8, 8))
    assert len(denoiser.asked) == len(set(denoiser.asked)) == int(scores.evaluations)
    assert 6 * 4 < int(scores.evaluations) < 6 * 20
    denoiser.asked.clear()
    candidates = torch.tensor([[True, True, False, False, False, True]])
    scores = classifier.score_latents(torch.zeros(1, 4, 8, 8), candidates)
    assert len(denoiser.asked) == int(scores.evaluations) <= 3 * 20


def test_all_classes_share_the_trials():
    classifier, denoiser = known_errors(random_table(1), num_trials=7, alpha=0)
    classifier.score_latents(torch.zeros(1, 4, 8, 8))
    levels = [sorted(sigma for label, sigma in denoiser.asked if label == c) for c in range(6)]
    assert all(level == levels[0] for level in levels)
    assert len(set(levels[0])) == 7


@pytest.mark.parametrize("seed", range(40))
def test_who_is_stopped_when_by_plain_loops(seed):
    """By scipy's Student; and no one who was stopped then stands above one who went on."""
    from scipy.stats import t as student

    pairs, error = 24, 0.2
    classifier, denoiser = known_errors(random_table(seed), num_trials=pairs, alpha=error, seed=seed)
    scores = classifier.score_latents(torch.zeros(1, 4, 8, 8))
    generator = torch.Generator().manual_seed(seed)
    sigmas = spread_sigmas(denoiser.sigmas, pairs, generator, classifier.t_min, classifier.t_max).tolist()
    errors = [[denoiser.error(label, sigma) for sigma in sigmas] for label in range(6)]

    alive, groups, evaluations, done = list(range(6)), [], 0, 0  # groups: who was stopped, look by look
    for n in (4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 21, 24):
        evaluations += len(alive) * (n - done)
        done = n
        leader = min(alive, key=lambda label: statistics.mean(errors[label][:n]))
        apart = {c: [a - b for a, b in zip(errors[c][:n], errors[leader], strict=False)] for c in alive if c != leader}
        shared = statistics.mean(statistics.variance(d) for d in apart.values())
        out = []
        for label, d in apart.items():
            variance = (8 * shared + (n - 1) * statistics.variance(d)) / (8 + n - 1)
            left = 1 - n / pairs
            t = statistics.mean(d) * n**0.5 / (variance * left) ** 0.5 if left else math.inf
            if student.sf(t, 8 + n - 1) < error / 5:
                out.append(label)
        groups.append(out)
        alive = [label for label in alive if label not in out]
        if len(alive) == 1:
            break
    (winner,) = alive
    logits = scores.logits[0].tolist()
    assert int(scores.evaluations) == evaluations
    assert max(range(6), key=logits.__getitem__) == winner
    assert logits[winner] == pytest.approx(-100 * statistics.mean(errors[winner][:done]), rel=1e-4)
    for look, out in enumerate(groups):
        stayed = [label for group in groups[look + 1 :] for label in group] + [winner]
        assert max((logits[label] for label in out), default=-math.inf) <= min(logits[label] for label in stayed)


def test_one_who_was_stopped_keeps_its_distance_from_the_winner():
    table = torch.tensor([[1.0], [1.5], [3.0]]).expand(3, 997)
    classifier, _ = known_errors(table, num_trials=30, logit_scale=10.0)
    scores = classifier.score_latents(torch.zeros(1, 4, 8, 8))
    assert scores.logits[0].tolist() == pytest.approx([-10.0, -15.0, -30.0], rel=1e-4)
    assert scores.evaluations.tolist() == [3 * 4]


def test_its_distance_is_of_the_pairs_that_both_saw():
    """A third class that is stopped at the first look, while the others go on."""
    table = torch.stack(
        [
            torch.ones(997),
            1.02 + 0.3 * torch.randn(997, generator=torch.Generator().manual_seed(0)),
            torch.full((997,), 3.0),
        ]
    )
    classifier, _ = known_errors(table, num_trials=32, alpha=0.01, logit_scale=10.0)
    scores = classifier.score_latents(torch.zeros(1, 4, 8, 8))
    assert int(scores.evaluations) > 3 * 4 + 2 * 5
    best = scores.logits[0, :2].argmax()
    assert int(best) == 0
    assert float(scores.logits[0, 0] - scores.logits[0, 2]) == pytest.approx(20.0, rel=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_only_candidates_are_tried(seed):
    classifier, denoiser = known_errors(random_table(seed), num_trials=6)
    generator = torch.Generator().manual_seed(seed)
    candidates = torch.rand(4, 6, generator=generator) < 0.5
    candidates[:, seed] = True
    before = candidates.clone()
    logits = classifier.score_latents(torch.zeros(4, 4, 8, 8), candidates).logits
    assert torch.equal(candidates, before)
    assert candidates[torch.arange(4), logits.argmax(1)].all()
    assert logits.isfinite().all()
    outside, inside = logits.masked_fill(candidates, -torch.inf), logits.masked_fill(~candidates, torch.inf)
    assert (outside.amax(1) <= inside.amin(1)).all()
    assert {label for label, _ in denoiser.asked} <= set(candidates.any(0).nonzero()[:, 0].tolist())


def test_a_lone_candidate_is_tried_on_the_first_pairs_only():
    classifier, _ = known_errors(random_table(3), num_trials=20)
    candidates = torch.zeros(1, 6, dtype=torch.bool)
    candidates[0, 4] = True
    scores = classifier.score_latents(torch.zeros(1, 4, 8, 8), candidates)
    assert scores.evaluations.tolist() == [4]
    assert int(scores.logits.argmax()) == 4 or scores.logits[0].unique().numel() == 1


@pytest.mark.parametrize(
    "options", [{"num_trials": 0}, {"batch_size": 0}, {"alpha": -0.1}, {"alpha": 0.6}, {"alpha": math.nan}]
)
def test_bad_budgets_are_refused(tiny_host, tokens, options):
    with pytest.raises(ConfigError, match=r"at least 1, got|from 0 \(stop no class early\) to 0.5, got"):
        DiffusionClassifier(tiny_host, tokens, **options)


def test_any_number_of_images_is_taken_in_parts(tiny_host, tokens, images, monkeypatch):
    classifier = DiffusionClassifier(tiny_host, tokens, **SHORT)
    whole = classifier.scores(images)
    monkeypatch.setattr(diffusion, "_VAE_PIXELS", 2 * 32 * 32)
    monkeypatch.setattr(diffusion, "_IMAGES_PER_CHUNK", 4)
    parts = classifier.scores(images)
    assert torch.allclose(parts.logits, whole.logits, atol=1e-4)
    assert torch.equal(parts.evaluations, whole.evaluations)


def test_batches_are_full_across_images(tiny_host, tokens, cache, monkeypatch):
    sizes, denoise = [], tiny_host.denoiser.denoise
    monkeypatch.setattr(
        tiny_host.denoiser, "denoise", lambda noised, *rest: (sizes.append(len(noised)), denoise(noised, *rest))[1]
    )
    DiffusionClassifier(tiny_host, tokens, num_trials=4, alpha=0, batch_size=25).score_latents(cache.latents[:5, 0])
    assert sizes == [25, 25, 10]  # 5 images, 3 classes, 4 pairs


def test_a_quarter_of_the_evaluations_gives_the_same_answers():
    """Real errors: the pocket checkpoint's own drawings of six of its words, by the defaults but for half the pairs."""
    host, words = load_pocket(), ["kegi", "kifi", "kere", "pudo", "bupe", "veka"]
    tokens = word_tokens(host, words)
    images = generate(host, [f"a drawing of a {word}" for word in words], num_inference_steps=10, seed=1)
    full = DiffusionClassifier(host, tokens, num_trials=32, alpha=0, seed=1).scores(images)
    test = DiffusionClassifier(host, tokens, num_trials=32, seed=1).scores(images)
    assert full.evaluations.tolist() == [6 * 32] * 6
    assert test.logits.argmax(1).tolist() == full.logits.argmax(1).tolist() == list(range(6))
    assert test.evaluations.sum() <= full.evaluations.sum() / 4
    assert test.evaluations.unique().numel() > 1  # hard images cost more than easy ones


def test_errors_are_float32_under_a_half_precision_denoiser(tiny_model, tiny_host, tokens, cache):
    from mcti_core.hosts.diffusers.host import load_host

    half = load_host(tiny_model, dtype="bf16")
    latents, options = cache.latents[:4, 0], {"num_trials": 8, "alpha": 0}
    fine = DiffusionClassifier(tiny_host, tokens, **options).score_latents(latents).logits
    coarse = DiffusionClassifier(half, tokens, **options).score_latents(latents).logits
    assert coarse.dtype == torch.float32
    assert torch.allclose(coarse, fine, rtol=0.02)
    assert (coarse % 1).unique().numel() == coarse.numel()  # not rounded to bf16's three digits
