import logging
import math
import statistics
from copy import deepcopy
from dataclasses import dataclass, field, replace

import pytest
import torch
import torch.nn.functional as F

from mcti_core.classifiers import diffusion
from mcti_core.classifiers.base import Classifier, Scores, predictions
from mcti_core.classifiers.calibration import calibrate
from mcti_core.classifiers.cascade import CascadeClassifier
from mcti_core.classifiers.clip import ClipClassifier
from mcti_core.classifiers.diffusion import DiffusionClassifier
from mcti_core.classifiers.hybrid import HybridClassifier
from mcti_core.classifiers.logistic import LogisticRegression
from mcti_core.errors import ConfigError, HostError, TokenError
from mcti_core.hosts.base import Host
from mcti_core.hosts.features import TextFeatures
from mcti_core.noise_levels import spread_sigmas
from mcti_core.pocket import load_pocket
from mcti_core.pocket.recipe.quality import word_tokens
from mcti_core.sampling import generate
from mcti_core.tokens.token_set import UNKNOWN, Support, TokenSet

SHORT = {"num_trials": 6, "alpha": 0.3}
"""A small budget for the diffusion classifier."""


class Forbidden:
    """A denoiser that must not be called."""

    def __init__(self, denoiser):
        self.sigmas, self.noised, self.weight = denoiser.sigmas, denoiser.noised, denoiser.weight

    def denoise(self, noised, sigma, text):
        raise AssertionError("the denoiser was called")


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


@pytest.fixture(scope="module")
def images(dataset):
    return torch.stack(list(dataset.load(32)))


@pytest.fixture
def classifiers(tiny_host, tokens):
    return {
        "clip": ClipClassifier(tiny_host, tokens),
        "hybrid": HybridClassifier(tiny_host, tokens),
        "diffusion": DiffusionClassifier(tiny_host, tokens, **SHORT),
    }


def remade(classifier, host, tokens):
    return type(classifier)(host, tokens, **(SHORT if isinstance(classifier, DiffusionClassifier) else {}))


@pytest.mark.parametrize("name", ["clip", "hybrid", "diffusion"])
def test_permuting_classes_permutes_logits(tiny_host, tokens, images, classifiers, name):
    order = [2, 0, 1]
    plain = classifiers[name].scores(images)
    permuted = remade(classifiers[name], tiny_host, tokens.select(order)).scores(images)
    assert torch.allclose(permuted.logits, plain.logits[:, order], atol=1e-4)
    assert torch.equal(permuted.evaluations, plain.evaluations)
    assert plain.logits.std(1).min() > 1e-3  # classes do differ


@pytest.mark.parametrize("name", ["clip", "hybrid", "diffusion"])
def test_an_image_scores_the_same_in_any_batch(images, classifiers, name):
    twice = torch.cat([images, images[:1]])
    scores = classifiers[name].scores(twice)
    assert torch.allclose(scores.logits[0], scores.logits[-1], atol=1e-4)
    alone = [classifiers[name].scores(image[None]) for image in twice]
    assert torch.allclose(torch.cat([each.logits for each in alone]), scores.logits, atol=1e-4)
    assert torch.equal(torch.cat([each.evaluations for each in alone]), scores.evaluations)


def test_clip_logits_by_transformers_alone(tiny_host, tiny_model, tokens, images):
    from transformers import CLIPModel, CLIPTextModel, CLIPTokenizer, CLIPVisionModelWithProjection
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    # As plain textual inversion does it: new rows in the token table, new ids in the prompts.
    tower = CLIPTextModel.from_pretrained(tiny_model, subfolder="text_encoder")
    tokenizer = CLIPTokenizer.from_pretrained(tiny_model, subfolder="tokenizer")
    table = tower.get_input_embeddings().weight
    rows = torch.cat([table.detach(), tokens.vectors["clip_l"].flatten(0, 1)])
    tower.set_input_embeddings(torch.nn.Embedding.from_pretrained(rows))
    clip = CLIPModel.from_pretrained(tiny_model / "clip")
    text = []
    for c in range(3):
        per_template = []
        for template in tokens.templates:
            words = tokenizer(template.replace(" {}", ""), add_special_tokens=False)["input_ids"]
            ids = [tokenizer.bos_token_id, *words, len(table) + 2 * c, len(table) + 2 * c + 1, tokenizer.eos_token_id]
            end = len(ids) - 1
            ids += [tokenizer.pad_token_id] * (77 - len(ids))
            hidden = tower(input_ids=torch.tensor([ids])).last_hidden_state[0, end]
            per_template.append(F.normalize(clip.text_projection(hidden), dim=0))
        text.append(F.normalize(torch.stack(per_template).mean(0), dim=0))
    vision = CLIPVisionModelWithProjection.from_pretrained(tiny_model / "clip")
    mean, std = torch.tensor(OPENAI_CLIP_MEAN), torch.tensor(OPENAI_CLIP_STD)
    pixels = (images - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    features = F.normalize(vision(pixel_values=pixels).image_embeds, dim=-1)
    expected = 10 * features @ torch.stack(text).T
    assert torch.allclose(ClipClassifier(tiny_host, tokens).scores(images).logits, expected, atol=1e-4)


@pytest.mark.parametrize(("count", "side", "sizes"), [(40, 512, [16, 16, 8]), (40, 1024, [16, 16, 8]), (40, 256, [40])])
def test_clip_takes_as_many_images_at_once_as_a_small_gpu_has_room_for(tiny_host, tokens, count, side, sizes):
    seen = []

    class Tower:
        encoder, project_text = tiny_host.clip.encoder, staticmethod(tiny_host.clip.project_text)

        def image_features(self, images):
            seen.append(len(images))
            return torch.arange(seen[-1] * 16.0).view(-1, 16)

    classifier = ClipClassifier(replace(tiny_host, clip=Tower()), tokens)
    scores = classifier.scores(torch.zeros(1, 1, 1, 1).expand(count, 3, side, side))
    assert seen == sizes
    assert scores.logits.shape == (count, 3)


def test_clip_pools_where_the_tokens_were_trained(tiny_host, tokens, images):
    eot, token = (ClipClassifier(tiny_host, replace(tokens, pooling=pooling)) for pooling in ("eot", "token"))
    assert (eot.scores(images).logits - token.scores(images).logits).abs().max() > 0.1


def test_clip_reads_the_templates_it_is_given(tiny_host, tokens, images):
    alone = [ClipClassifier(tiny_host, tokens, templates=(t,)) for t in tokens.templates]
    both = ClipClassifier(tiny_host, tokens)
    mean = F.normalize((alone[0].text + alone[1].text) / 2, dim=-1)
    assert torch.allclose(both.text, mean, atol=1e-5)
    assert (alone[0].text - alone[1].text).abs().max() > 1e-3


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


@pytest.mark.parametrize(
    ("kind", "without", "message"),
    [
        (ClipClassifier, {"clip": None}, "CLIP space"), (DiffusionClassifier, {"denoiser": None}, "no diffusion model"),
        (DiffusionClassifier, {"codec": None}, "no VAE"),
    ],
)  # fmt: skip
def test_classifiers_need_their_parts_of_the_host(tiny_host, tokens, kind, without, message):
    with pytest.raises(HostError, match=message):
        kind(replace(tiny_host, **without), tokens)


@pytest.mark.parametrize(("temperature", "weight"), [(1.0, 0.3), (4.0, 2.0)])
def test_cascade_adds_both_and_believes_the_first_as_far_as_it_is_calibrated(classifiers, images, temperature, weight):
    first, second = classifiers["clip"], classifiers["diffusion"]
    first.temperature = temperature
    scores = CascadeClassifier(first, second, margin=math.inf, weight=weight).scores(images)
    slow = second.scores(images)
    expected = (first.scores(images).logits / temperature + weight * slow.logits).softmax(1)
    assert torch.allclose(scores.logits.softmax(1), expected, atol=1e-4)
    assert torch.equal(scores.evaluations, slow.evaluations)


@pytest.mark.parametrize("options", [{"shortlist": 1}, {"margin": 0.0}])
def test_cascade_that_hands_nothing_on_is_clip(tiny_host, tokens, classifiers, images, options):
    slow = DiffusionClassifier(replace(tiny_host, denoiser=Forbidden(tiny_host.denoiser)), tokens)
    scores = CascadeClassifier(classifiers["clip"], slow, **options).scores(images)
    assert torch.equal(scores.logits, classifiers["clip"].scores(images).logits)
    assert scores.evaluations.tolist() == [0] * len(images)


def test_cascade_hands_on_what_is_in_doubt(classifiers, images):
    fast = classifiers["clip"].scores(images).logits
    best = fast.topk(2).values
    lead = best[:, 0] - best[:, 1]
    margin = float(lead.median()) + 1e-4
    scores = CascadeClassifier(classifiers["clip"], classifiers["diffusion"], shortlist=2, margin=margin).scores(images)
    doubtful = lead < margin
    assert 0 < int(doubtful.sum()) < len(images)
    assert torch.equal(scores.evaluations > 0, doubtful)
    assert torch.equal(scores.logits[~doubtful], fast[~doubtful])


def test_cascade_keeps_its_answer_on_the_shortlist(classifiers, images):
    fast = classifiers["clip"].scores(images).logits
    options = {"shortlist": 2, "margin": math.inf, "weight": 100.0}
    scores = CascadeClassifier(classifiers["clip"], classifiers["diffusion"], **options).scores(images)
    listed = torch.zeros_like(fast, dtype=torch.bool).scatter_(1, fast.topk(2).indices, True)
    expected = classifiers["diffusion"].scores(images, listed).logits.masked_fill(~listed, -torch.inf).argmax(1)
    assert torch.equal(scores.logits.argmax(1), expected)
    assert not torch.equal(expected, fast.argmax(1))  # with so much weight it does overrule CLIP
    inside, outside = scores.logits.masked_fill(~listed, torch.inf), scores.logits.masked_fill(listed, -torch.inf)
    assert (inside.amin(1) >= outside.amax(1)).all()
    assert (scores.evaluations <= 2 * 6).all()


def test_cascade_of_a_single_class(tiny_host, tokens, images):
    one = tokens.select([1])
    cascade = CascadeClassifier(ClipClassifier(tiny_host, one), DiffusionClassifier(tiny_host, one))
    assert cascade.scores(images).logits.shape == (len(images), 1)


def test_hybrid_without_weight_is_clip(tiny_host, tokens, classifiers, images):
    hybrid = HybridClassifier(tiny_host, tokens, weight=0.0)
    assert torch.allclose(hybrid.scores(images).logits, classifiers["clip"].scores(images).logits, atol=1e-6)


def test_hybrid_adds_cosines_with_class_means(tiny_host, tokens, classifiers, cache, images):
    hybrid = HybridClassifier(tiny_host, tokens, weight=0.5)
    plain, features = cache.features[:, 0], F.normalize(tiny_host.clip.image_features(images), dim=-1)
    means = torch.stack([F.normalize(plain[cache.labels == c].mean(0), dim=0) for c in range(3)])
    expected = classifiers["clip"].scores(images).logits + 0.5 * 10 * features @ means.T
    assert torch.allclose(hybrid.scores(images).logits, expected, atol=1e-5)


@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_left_out_logits_by_brute_force(tiny_host, tokens, weight):
    generator = torch.Generator().manual_seed(6)
    features = F.normalize(torch.randn(6, 16, generator=generator), dim=-1)
    labels = torch.tensor([0, 0, 0, 1, 2, 2])  # class 1 has only one
    learned = replace(tokens, support=Support(features, labels))
    hybrid, clip = HybridClassifier(tiny_host, learned, weight=weight), ClipClassifier(tiny_host, learned)
    for i in range(6):
        token = clip.logits(features[i : i + 1])[0]
        rest = [j for j in range(6) if j != i]
        if all(labels[j] != labels[i] for j in rest):
            expected = token * (1 + weight)
        else:
            groups = [[j for j in rest if labels[j] == c] for c in range(3)]
            means = torch.stack([F.normalize(features[group].mean(0), dim=0) for group in groups])
            expected = token + weight * 10 * means @ features[i]
        assert torch.allclose(hybrid.left_out_logits()[i], expected, atol=1e-5)


def _with_support(tokens, labels, seed=6):
    """Tokens with random examples around a centre of each class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.tensor(labels)
    centres = torch.randn(len(tokens), 16, generator=generator)
    features = F.normalize(centres[labels] + torch.randn(len(labels), 16, generator=generator), dim=-1)
    return replace(tokens, support=Support(features, labels))


def test_hybrid_auto_is_the_weighted_sum_of_its_parts(tiny_host, tokens):
    learned = _with_support(tokens, [0, 0, 0, 1, 1, 2, 2])
    hybrid, clip = HybridClassifier(tiny_host, learned, weight="auto"), ClipClassifier(tiny_host, learned)
    features, labels = learned.support.features, learned.support.labels
    query = torch.randn(5, 16, generator=torch.Generator().manual_seed(1))
    unit = F.normalize(query, dim=-1)
    parts = [clip.logits(query), 10 * unit @ hybrid.means.T, LogisticRegression(features, labels, 3).logits(unit)]
    expected = sum(weight * part for weight, part in zip(hybrid.weights.tolist(), parts, strict=True))
    assert (hybrid.weights > 0).all()
    torch.testing.assert_close(hybrid.logits(query), expected)


def test_hybrid_auto_judges_examples_by_parts_that_have_not_seen_them(tiny_host, tokens):
    learned = _with_support(tokens, [0, 0, 1, 1, 2])
    hybrid, clip = HybridClassifier(tiny_host, learned, weight="auto"), ClipClassifier(tiny_host, learned)
    features, labels = learned.support.features, learned.support.labels
    token, (a, b, c) = clip.logits(features), hybrid.weights.tolist()
    for i in range(4):
        keep = torch.tensor([j for j in range(5) if j == 4 or j % 2 != i % 2])
        probe = LogisticRegression(features[keep], labels[keep], 3).logits(features[i : i + 1])[0]
        own = [j for j in range(5) if labels[j] == labels[i] and j != i]
        means = hybrid.means.clone()
        means[labels[i]] = features[own[0]]
        expected = a * token[i] + b * 10 * means @ features[i] + c * probe
        torch.testing.assert_close(hybrid.left_out_logits()[i], expected)
    torch.testing.assert_close(hybrid.left_out_logits()[4], (a + b + c) * token[4])  # its class's only one
    assert calibrate(hybrid, learned).num_samples == 4


def test_hybrid_auto_with_one_example_a_class_takes_the_first_weights(tiny_host, tokens):
    learned = _with_support(tokens, [0, 1, 2])
    hybrid = HybridClassifier(tiny_host, learned, weight="auto")
    assert hybrid.weights.tolist() == [1.0, 0.25, 2.0]
    calibrate(hybrid, learned)
    assert (hybrid.temperature, hybrid.threshold) == (3.25, 0.0)


def test_hybrid_auto_has_no_probe_where_a_class_has_no_example(tiny_host, tokens, caplog):
    caplog.set_level(logging.INFO)
    learned = _with_support(tokens, [0, 0, 1, 1])
    query = torch.randn(5, 16, generator=torch.Generator().manual_seed(1))
    auto, usual = (HybridClassifier(tiny_host, learned, weight=weight) for weight in ("auto", 1.0))
    assert torch.equal(auto.logits(query), usual.logits(query))
    assert "no logistic probe, since a class has no example" in caplog.text


def test_hybrid_refuses_another_word_as_weight_and_tokens_without_examples(tiny_host, tokens):
    with pytest.raises(ConfigError, match="a number or 'auto', got 'much'"):
        HybridClassifier(tiny_host, _with_support(tokens, [0, 1, 2]), weight="much")
    with pytest.raises(TokenError, match=r"no features of their examples.*'clip'"):
        HybridClassifier(tiny_host, replace(tokens, support=None))


def test_classifying_leaves_the_model_alone(tiny_host, classifiers, images):
    modules = [tiny_host.text["clip_l"].tower, tiny_host.denoiser.unet, tiny_host.codec.vae, tiny_host.clip.module]
    before = [deepcopy(module.state_dict()) for module in modules]
    for classifier in classifiers.values():
        classifier.scores(images[:1])
    for module, state in zip(modules, before, strict=True):
        assert all(torch.equal(v, state[name]) for name, v in module.state_dict().items())


LABELS = ("ant", "bee", "cat")
LOGITS = torch.tensor([[0.0, 2.0, 1.0], [5.0, -1.0, 0.0]])
SCORES = Scores(LOGITS, torch.tensor([0, 12]))


def test_predictions_name_the_best_in_order():
    first, second = predictions(LABELS, SCORES, top=3)
    assert [label for label, _ in first.top] == ["bee", "cat", "ant"]
    assert [label for label, _ in second.top] == ["ant", "cat", "bee"]
    assert (first.label, first.index, second.label, second.index) == ("bee", 1, "ant", 0)
    assert (first.evaluations, second.evaluations) == (0, 12)
    for answer in (first, second):
        confidences = [confidence for _, confidence in answer.top]
        assert sum(confidences) == pytest.approx(1)
        assert confidences == sorted(confidences, reverse=True)
        assert answer.confidence == confidences[0]
    assert first.confidence == pytest.approx(1 / (1 + torch.e**-1 + torch.e**-2))


def test_top_is_cut_to_what_there_is():
    assert len(predictions(LABELS, SCORES, top=99)[0].top) == 3
    assert len(predictions(LABELS, SCORES)[0].top) == 1


def test_confidence_below_the_threshold_is_unknown():
    first, second = predictions(LABELS, SCORES, threshold=0.9, top=2)
    assert (first.label, first.index) == (UNKNOWN, -1)
    assert [label for label, _ in first.top] == ["bee", "cat"]
    assert first.confidence == pytest.approx(0.665, abs=1e-3)
    assert second.label == "ant"
    exact = second.confidence
    assert predictions(LABELS, SCORES, threshold=exact)[1].label == "ant"


def test_temperature_moves_confidence_and_not_order():
    plain, warm, cold = (predictions(LABELS, SCORES, temperature=t, top=3)[0] for t in (1.0, 4.0, 0.25))
    assert warm.confidence < plain.confidence < cold.confidence
    assert [label for label, _ in warm.top] == [label for label, _ in cold.top]


def test_call_carries_the_classifiers_own_temperature_and_threshold():
    class Constant(Classifier):
        labels = LABELS

        def scores(self, images):
            return Scores(LOGITS[: len(images)], torch.zeros(len(images)).long())

    classifier = Constant()
    images = torch.zeros(2, 3, 4, 4)
    assert classifier(images) == predictions(LABELS, classifier.scores(images))
    classifier.temperature, classifier.threshold = 3.0, 0.5
    answers = classifier(images, top=2)
    assert answers == predictions(LABELS, classifier.scores(images), temperature=3.0, threshold=0.5, top=2)
    assert [answer.unknown for answer in answers] == [True, False]
    with pytest.raises(TypeError, match="abstract"):
        Classifier()


@pytest.mark.parametrize("row", [[torch.inf, 1.0, 0.0], [-torch.inf] * 3])
def test_infinite_scores_are_refused_and_not_answered(row):
    with pytest.raises(HostError, match="scores are infinite"):
        predictions(LABELS, Scores(torch.tensor([row]), torch.zeros(1).long()))
