from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from mcti_core.data.feature_cache import FeatureCache
from mcti_core.errors import ConfigError, HostError, TokenError
from mcti_core.prompts.splicing import template_prompts
from mcti_core.tokens.token_set import TokenSet
from mcti_core.training.early_stopping import ValidationLoss
from mcti_core.training.errors import StopTraining, TrainingError
from mcti_core.training.loop import TrainConfig, train
from mcti_core.training.per_class import train_per_class

SHORT = TrainConfig(
    steps=3, batch_size=2, lr=1e-2, lr_warmup_steps=0, gamma=1.0, templates=("a photo of a {}", "a drawing of the {}")
)
STILL = replace(SHORT, lr=1e-30, weight_decay=0.0)
"""Moves nothing, so that every step sees the same vectors."""


class Watched:
    """A denoiser that counts its calls; after ``good`` of them it answers nan."""

    def __init__(self, denoiser, good=10**9):
        self.denoiser, self.good, self.calls = denoiser, good, 0
        self.sigmas, self.noised, self.weight = denoiser.sigmas, denoiser.noised, denoiser.weight

    def denoise(self, noised, sigma, text):
        self.calls += 1
        estimate = self.denoiser.denoise(noised, sigma, text)
        return estimate if self.calls <= self.good else estimate * torch.nan


class CountingEncoder:
    """A text encoder that notes how many rows each call encodes, and of what length."""

    def __init__(self, encoder):
        self.encoder, self.rows = encoder, []

    def __getattr__(self, name):
        return getattr(self.encoder, name)

    def encode(self, ids, embeds):
        self.rows.append(tuple(ids.shape))
        return self.encoder.encode(ids, embeds)


def modules(host):
    return [host.text["clip_l"].tower, host.denoiser.unet, host.codec.vae, host.clip.module]


def same(first: TokenSet, second: TokenSet) -> bool:
    return all(torch.equal(v, second.vectors[name]) for name, v in first.vectors.items())


@pytest.fixture
def six(tiny_host):
    """Six classes of two random latents and two like image features each, and tokens for them."""
    generator = torch.Generator().manual_seed(3)
    classes, labels = tuple("abcdef"), torch.arange(6).repeat(2)
    latents = torch.randn(12, 1, 4, 8, 8, generator=generator)
    centres = torch.randn(6, 1, 16, generator=generator)
    features = F.normalize(centres[labels] + 0.1 * torch.randn(12, 1, 16, generator=generator), dim=-1)
    vectors = {"clip_l": torch.randn(6, 1, 32, generator=generator)}
    return FeatureCache(classes, labels, latents, features, "six"), TokenSet(classes, vectors)


@pytest.mark.parametrize("terms", [{}, {"gamma": 0.0}, {"reconstruction_weight": 0.0}])
def test_a_seed_gives_the_same_tokens_to_the_bit(tiny_host, cache, tokens, terms):
    config = replace(SHORT, **terms)
    first, again = (train(tiny_host, cache, tokens, config) for _ in range(2))
    other = train(tiny_host, cache, tokens, replace(config, seed=1))
    assert same(first.tokens, again.tokens)
    assert first.history["loss"] == again.history["loss"]
    assert not same(first.tokens, other.tokens)


def test_input_tokens_are_left_alone(tiny_host, cache, tokens):
    before = {name: v.clone() for name, v in tokens.vectors.items()}
    learned = train(tiny_host, cache, tokens, SHORT).tokens
    assert all(torch.equal(tokens.vectors[name], v) for name, v in before.items())
    assert not same(learned, tokens)


def test_the_model_is_bit_identical_and_asks_for_gradients_as_before(tiny_host, cache, tokens):
    before = [{name: v.clone() for name, v in module.state_dict().items()} for module in modules(tiny_host)]
    parameters = [p for module in modules(tiny_host) for p in module.parameters()]
    asked = [index % 3 == 0 for index in range(len(parameters))]
    inside = []
    try:
        for parameter, ask in zip(parameters, asked, strict=True):
            parameter.requires_grad_(ask)
        look = lambda info: inside.append(any(p.requires_grad for p in parameters))  # noqa: E731
        train(tiny_host, cache, tokens, SHORT, on_step=look)
        assert inside == [False] * SHORT.steps
        assert [p.requires_grad for p in parameters] == asked
        assert all(p.grad is None for p in parameters)
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
    for module, state in zip(modules(tiny_host), before, strict=True):
        assert all(torch.equal(v, state[name]) for name, v in module.state_dict().items())


def test_reconstruction_error_falls(tiny_host, cache, tokens):
    config = replace(SHORT, steps=40, batch_size=6, lr=0.1, gamma=0.0, weight_decay=0.0, templates=("a photo of a {}",))
    prompts = {"clip_l": template_prompts(tiny_host.text["clip_l"], config.templates, 2)}
    probe = ValidationLoss(tiny_host, cache, torch.arange(3), prompts)
    learned = train(tiny_host, cache, tokens, config).tokens
    assert probe.error(learned.vectors) < probe.error(tokens.vectors) - 1e-3


@pytest.mark.parametrize("direction", ["text_to_image", "image_to_text", "symmetric"])
@pytest.mark.parametrize("pooling", ["eot", "token"])
def test_classification_loss_falls(tiny_host, six, direction, pooling):
    config = replace(SHORT, steps=40, lr=0.1, reconstruction_weight=0.0, direction=direction, pooling=pooling)
    losses = train(tiny_host, *six, config).history["classification"]
    assert sum(losses[-3:]) < 0.6 * sum(losses[:3])


def test_gamma_0_needs_no_clip_space(tiny_host, cache, tokens):
    host, features_less = replace(tiny_host, clip=None), replace(cache, features=None)
    alone = train(host, features_less, tokens, replace(SHORT, gamma=0.0))
    assert same(alone.tokens, train(tiny_host, cache, tokens, replace(SHORT, gamma=0.0)).tokens)
    assert alone.tokens.support is None
    assert all(value != value for value in alone.history["classification"])  # nan: not computed


def test_without_reconstruction_no_denoiser_is_needed(tiny_host, cache, tokens):
    host, latents_less = replace(tiny_host, denoiser=None, codec=None), replace(cache, latents=None)
    config = replace(SHORT, reconstruction_weight=0.0, eval_steps=1)
    result = train(host, latents_less, tokens, config)
    assert not same(result.tokens, tokens)
    assert all(value != value for value in result.history["reconstruction"])
    assert result.stop_reason == "max_steps"


@pytest.mark.parametrize("change", [{"gamma": 1.0}, {"gamma": 1.0, "max_classes_per_step": 2}, {"pooling": "token"}])
def test_gamma_does_not_change_what_reconstruction_draws(tiny_host, six, change):
    cache, tokens = six
    plain = train(tiny_host, cache, tokens, replace(STILL, steps=4, gamma=0.0)).history["reconstruction"]
    other = train(tiny_host, cache, tokens, replace(STILL, steps=4, **change)).history["reconstruction"]
    assert other == pytest.approx(plain, rel=1e-5)
    assert len({round(value, 6) for value in plain}) == 4


def test_the_loss_is_the_weighted_sum_of_its_terms(tiny_host, cache, tokens):
    config = replace(SHORT, steps=4, reconstruction_weight=0.5, gamma=2.0, gamma_end=0.02, classification_only_steps=2)
    history = train(tiny_host, cache, tokens, config).history
    gammas = [2.0, 2.0, *(2.0 * 0.01 ** (step / 4) for step in range(4))]
    assert gammas[-1] < 0.1
    for step, gamma in enumerate(gammas):
        expected = gamma * history["classification"][step]
        if step >= 2:
            expected += 0.5 * history["reconstruction"][step]
        assert history["loss"][step] == pytest.approx(expected, rel=1e-5)


def test_on_step_counts_from_one_and_sees_the_tokens(tiny_host, cache, tokens):
    seen = []
    config = replace(SHORT, classification_only_steps=2)
    result = train(tiny_host, cache, tokens, config, on_step=seen.append)
    assert [info.step for info in seen] == [1, 2, 3, 4, 5]
    assert {info.total for info in seen} == {5}
    assert same(seen[-1].tokens(), result.tokens)
    assert seen[-1].history() == result.history
    assert (result.steps, result.stop_reason) == (5, "max_steps")


@pytest.mark.parametrize("request_", [StopTraining, KeyboardInterrupt])
def test_a_request_to_stop_returns_what_was_learned(tiny_host, cache, tokens, request_):
    kept = []

    def stop_at_two(info):
        kept.append(info.tokens())
        if info.step == 2:
            raise request_

    result = train(tiny_host, cache, tokens, replace(SHORT, steps=50), on_step=stop_at_two)
    assert (result.stop_reason, result.steps, len(result.history["loss"])) == ("interrupted", 2, 2)
    assert same(result.tokens, kept[-1])
    assert not same(result.tokens, tokens)


def test_other_exceptions_pass_through_and_the_session_ends(tiny_host, cache, tokens):
    log = []

    @contextmanager
    def session(*parts, gradients=False, checkpointing=False):
        log.append((parts, gradients))
        try:
            with tiny_host.session():
                yield
        finally:
            log.append("end")

    def fail(info):
        raise RuntimeError("on_step is not ours")

    tower = tiny_host.text["clip_l"].tower
    tower.requires_grad_(True)
    try:
        with pytest.raises(RuntimeError, match="not ours"):
            train(replace(tiny_host, session=session), cache, tokens, SHORT, on_step=fail)
        assert log == [(("text", "denoiser"), True), "end"]
        assert all(p.requires_grad for p in tower.parameters())
    finally:
        tower.requires_grad_(False)


def test_other_classes_keep_their_vectors(tiny_host, cache, tokens):
    config = replace(SHORT, direction="text_to_image")
    before = tokens.vectors["clip_l"]
    after = train(tiny_host, cache, tokens, config, classes=[1]).tokens.vectors["clip_l"]
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    assert (after[1] != before[1]).any(-1).all()
    two = train(tiny_host, cache, tokens, SHORT, classes=[2, 0]).tokens.vectors["clip_l"]
    assert torch.equal(two[1], before[1])
    assert (two[[0, 2]] != before[[0, 2]]).any(-1).all()


def test_other_classes_serve_as_negatives(tiny_host, cache, tokens):
    config = replace(STILL, direction="text_to_image")
    moved = cache.features.clone()
    moved[cache.labels != 1] = moved[cache.labels != 1].flip(0)
    first = train(tiny_host, cache, tokens, config, classes=[1]).history
    second = train(tiny_host, replace(cache, features=moved), tokens, config, classes=[1]).history
    assert first["classification"] != second["classification"]
    assert first["reconstruction"] == second["reconstruction"]


def test_one_by_one_is_one_run_a_class(tiny_host, cache, tokens):
    config = replace(SHORT, direction="text_to_image")
    results = train_per_class(tiny_host, cache, tokens, config)
    expected = tokens
    for index in range(3):
        expected = train(tiny_host, cache, expected, config, classes=[index]).tokens
        assert same(results[index].tokens, expected)
    assert [result.steps for result in results] == [3, 3, 3]


def test_classes_side_by_side_learn_what_each_learns_alone(tiny_host, six, monkeypatch):
    """One image per class and equal draws for all, so that nothing but the other classes differs."""
    monkeypatch.setattr(torch, "randn", lambda shape, generator=None: torch.full(tuple(shape), 0.5))
    monkeypatch.setattr(torch, "randint", lambda low, high, size, generator=None: torch.full(size, (high - 1) // 2))
    cache, tokens = six
    single = FeatureCache(cache.classes, cache.labels[:6], cache.latents[:6], cache.features[:6], "single")
    config = replace(SHORT, steps=5, direction="text_to_image", templates=("a photo of a {}",))
    alone, shared = (train_per_class(tiny_host, single, tokens, config, side_by_side=n) for n in (1, 4))
    assert [result.steps for result in shared] == [5, 5]
    moved = alone[-1].tokens.vectors["clip_l"] - tokens.vectors["clip_l"]
    apart = alone[-1].tokens.vectors["clip_l"] - shared[-1].tokens.vectors["clip_l"]
    assert moved.abs().amax((1, 2)).min() > 0.03
    assert apart.abs().max() < 1e-4


def test_one_by_one_stops_on_request(tiny_host, cache, tokens):
    def stop(info):
        raise StopTraining

    config = replace(SHORT, direction="text_to_image")
    results = train_per_class(tiny_host, cache, tokens, config, on_step=stop)
    assert [result.stop_reason for result in results] == ["interrupted"]


@pytest.mark.parametrize("direction", ["image_to_text", "symmetric"])
def test_one_text_a_step_has_one_direction(tiny_host, cache, tokens, direction):
    config = replace(SHORT, direction=direction)
    with pytest.raises(ConfigError, match="text_to_image"):
        train_per_class(tiny_host, cache, tokens, config)
    with pytest.raises(ConfigError, match="text_to_image"):
        train(tiny_host, cache, tokens, config, classes=[1])
    train_per_class(tiny_host, cache, tokens, replace(config, gamma=0.0, steps=1))  # no direction at all


def test_a_loss_that_is_not_finite_gives_the_last_finite_tokens(tiny_host, cache, tokens):
    seen = []
    host = replace(tiny_host, denoiser=Watched(tiny_host.denoiser, good=2))
    with pytest.raises(TrainingError, match="step 3") as caught:
        train(host, cache, tokens, replace(SHORT, steps=9), on_step=lambda info: seen.append(info.tokens()))
    assert len(seen) == 2
    assert same(caught.value.tokens, seen[-1])
    assert all(v.isfinite().all() for v in caught.value.tokens.vectors.values())


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, 1e38])
def test_poisoned_latents_raise(tiny_host, cache, tokens, poison):
    poisoned = replace(cache, latents=torch.full_like(cache.latents, poison))
    with pytest.raises(TrainingError, match="not a finite number") as caught:
        train(tiny_host, poisoned, tokens, SHORT)
    assert same(caught.value.tokens, tokens)


def test_classification_only_steps_cost_no_denoiser_call(tiny_host, cache, tokens):
    watched, calls = Watched(tiny_host.denoiser), []
    config = replace(SHORT, steps=2, classification_only_steps=3)
    history = train(
        replace(tiny_host, denoiser=watched), cache, tokens, config, on_step=lambda info: calls.append(watched.calls)
    ).history
    assert calls == [0, 0, 0, 1, 2]
    assert [value == value for value in history["reconstruction"]] == [False, False, False, True, True]


def test_evaluations_wait_for_the_reconstruction_term(tiny_host, cache, tokens):
    watched, calls = Watched(tiny_host.denoiser), []
    config = replace(STILL, steps=9, classification_only_steps=4, eval_steps=1, patience=2)
    result = train(
        replace(tiny_host, denoiser=watched), cache, tokens, config, on_step=lambda info: calls.append(watched.calls)
    )
    assert calls[:4] == [0, 0, 0, 0]
    assert (result.stop_reason, result.steps) == ("early_stop", 4 + 3)


@pytest.mark.parametrize(("every", "patience"), [(1, 1), (1, 3), (2, 2)])
def test_training_ends_when_the_probe_no_longer_improves(tiny_host, cache, tokens, every, patience):
    config = replace(STILL, steps=30, eval_steps=every, patience=patience)
    result = train(tiny_host, cache, tokens, config)
    assert result.stop_reason == "early_stop"
    assert result.steps == every * (1 + patience)  # the first look always improves


def test_training_goes_on_while_the_probe_improves(tiny_host, cache, tokens):
    config = replace(SHORT, steps=20, batch_size=6, lr=0.02, gamma=0.0, weight_decay=0.0, eval_steps=5, patience=1)
    result = train(tiny_host, cache, tokens, config)
    assert result.steps > 10  # two looks without improvement would have ended it


@pytest.mark.parametrize("vectors", [1, 2, 3])
@pytest.mark.parametrize("terms", [{"gamma": 0.0}, {"reconstruction_weight": 0.0}])
def test_every_vector_of_every_token_learns(tiny_host, cache, vectors, terms):
    generator = torch.Generator().manual_seed(4)
    start = TokenSet(cache.classes, {"clip_l": torch.randn(3, vectors, 32, generator=generator)})
    learned = train(tiny_host, cache, start, replace(SHORT, weight_decay=0.0, **terms)).tokens
    assert learned.vectors["clip_l"].shape == (3, vectors, 32)
    assert learned.vectors_per_token == vectors
    moved = (learned.vectors["clip_l"] - start.vectors["clip_l"]).abs().amax(-1)
    assert (moved > 1e-4).all()


@pytest.mark.parametrize(
    ("config", "rows"),
    [
        (replace(SHORT, batch_size=2, max_classes_per_step=4), [(2, 77), (2, 7)]),
        (replace(SHORT, batch_size=2, max_classes_per_step=64), [(2, 77), (4, 7)]),
        (replace(SHORT, batch_size=3, max_classes_per_step=1), [(3, 77)]),  # the batch's own classes are always encoded
        (replace(SHORT, batch_size=2, max_classes_per_step=64, gamma=0.0), [(2, 77)]),
        (replace(SHORT, batch_size=2, max_classes_per_step=64, reconstruction_weight=0.0), [(6, 7)]),
    ],
)
def test_no_more_texts_are_encoded_than_asked_and_padding_only_for_the_denoiser(tiny_host, six, config, rows):
    cache, tokens = six
    encoder = CountingEncoder(tiny_host.text["clip_l"])
    config = replace(config, templates=("a photo of a {}", "a drawing of a {}"))  # both 5 tokens, begin and end
    train(replace(tiny_host, text={"clip_l": encoder}), cache, tokens, config)
    assert encoder.rows == rows * config.steps


def test_the_result_says_how_it_was_made(tiny_host, cache, tokens):
    config = replace(SHORT, pooling="token", gamma=0.25)
    learned = train(tiny_host, cache, tokens, config).tokens
    assert (learned.labels, learned.names) == (tokens.labels, tokens.names)
    assert (learned.pooling, learned.templates, learned.base_model) == ("token", SHORT.templates, tiny_host.name)
    assert learned.training["gamma"] == 0.25
    assert learned.training["shots"] == 2
    assert torch.equal(learned.support.features, cache.features[:, 0])
    assert torch.equal(learned.support.labels, cache.labels)


def test_what_does_not_fit_together_is_refused(tiny_host, cache, tokens):
    wide = TokenSet(cache.classes, {"clip_l": torch.zeros(3, 1, 33)})
    foreign = TokenSet(cache.classes, {"clip_g": torch.zeros(3, 1, 32)})
    renamed = TokenSet(("a", "b", "x"), tokens.vectors)
    cases = [
        (ConfigError, r"\(a, b, c\).*\(a, b, x\)", tiny_host, cache, renamed),
        (TokenError, "33 wide; this model has clip_l, 32 wide", tiny_host, cache, wide),
        (TokenError, "clip_g, 32 wide; this model has clip_l", tiny_host, cache, foreign),
        (ConfigError, "no latents.*VAE", tiny_host, replace(cache, latents=None), tokens),
        (ConfigError, "no image features.*gamma to 0", tiny_host, replace(cache, features=None), tokens),
        (HostError, "no diffusion model", replace(tiny_host, denoiser=None), cache, tokens),
        (HostError, "no CLIP space.*set gamma to 0", replace(tiny_host, clip=None), cache, tokens),
    ]
    for error, message, host, examples, start in cases:
        with pytest.raises(error, match=message):
            train(host, examples, start, SHORT)


@pytest.mark.parametrize("classes", [[], [0, 0], [3], [-1]])
def test_class_numbers_are_checked(tiny_host, cache, tokens, classes):
    with pytest.raises(ConfigError, match="must be distinct, from 0 to 2"):
        train(tiny_host, cache, tokens, SHORT, classes=classes)


NOT_NEGATIVE = (
    "lr_warmup_steps",
    "weight_decay",
    "reconstruction_weight",
    "gamma",
    "classification_only_steps",
    "eval_steps",
    "seed",
)
FINITE = ("lr", "gamma", "reconstruction_weight", "weight_decay", "gamma_end", "logit_scale")
BEYOND = ({"lr": 1e300}, {"lr": 1e31}, {"weight_decay": 1e300}, {"weight_decay": 1e7})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        *(
            ({name: 0}, f"{name} must be at least 1, got 0")
            for name in ("steps", "batch_size", "max_classes_per_step", "patience")
        ),
        *(({name: -1}, f"{name} must not be negative, got -1") for name in NOT_NEGATIVE),
        *(({name: wrong}, name) for name in FINITE for wrong in (float("nan"), float("inf"))),
        *((beyond, r"lr must be at most 1e\+30 and weight_decay at most 1e\+06") for beyond in BEYOND),
        ({"gamma": "much"}, "gamma must be a number or 'auto', got 'much'"),
        ({"gamma": "auto", "reconstruction_weight": 0.0}, "set reconstruction_weight above 0"),
        ({"gamma": "auto", "gamma_end": 0.1}, "cannot be used with an automatic gamma"),
        ({"gamma": "auto", "gradient_ratio": 0.0}, "gradient_ratio must be above 0"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"logit_scale": -1.0}, "logit_scale must be above 0"),
        ({"gamma": 1.0, "gamma_end": 0.0}, "gamma_end must be above 0"),
        ({"direction": "sideways"}, "text_to_image, image_to_text, symmetric"),
        ({"pooling": "mean"}, "'mean' is not one of eot, token"),
        ({"lr_schedule": "linear"}, "'linear' is not one of constant, cosine"),
        ({"templates": ()}, "at least one prompt"),
        ({"reconstruction_weight": 0.0, "gamma": 0.0}, "nothing would be learned"),
        ({"gamma": 0.0, "classification_only_steps": 5}, "no classification term"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        TrainConfig(**settings)


def test_settings_describe_themselves_in_plain_values():
    described = TrainConfig(templates=["a {}"]).describe()
    assert described["templates"] == ["a {}"]
    assert TrainConfig(**described) == TrainConfig(templates=("a {}",))
