import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from mcti_core.classifiers.clip import ClipClassifier
from mcti_core.classifiers.diffusion import DiffusionClassifier
from mcti_core.data.feature_cache import FeatureCache
from mcti_core.hosts.diffusers.host import load_host
from mcti_core.prompts.splicing import encode_prompts, host_prompts, template_prompts
from mcti_core.sampling import generate
from mcti_core.tokens.io import load_tokens, save_tokens
from mcti_core.tokens.token_set import TokenSet
from mcti_core.training.early_stopping import ValidationLoss
from mcti_core.training.loop import TrainConfig, train
from mcti_core.training.objective import batch_classification_loss, encode_classes, reconstruction_loss

from .model_files import change

SHORT = TrainConfig(
    steps=2, batch_size=3, lr=0.01, lr_warmup_steps=0, templates=("a photo of a {}", "a drawing of the {}")
)
WIDTHS = {"clip_l": 32, "clip_g": 40}


@pytest.fixture(scope="module")
def pipeline(xl_model):
    """diffusers' own, loaded apart from the host."""
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(xl_model, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module", params=["clip_l", "clip_g"])
def host(request, xl_model):
    """With the CLIP space of the one and of the other text encoder."""
    return load_host(xl_model, xl_model / request.param)


@pytest.fixture(scope="module")
def plain(xl_model):
    """Without a CLIP space."""
    return load_host(xl_model)


@pytest.fixture(scope="module")
def cache(host, dataset):
    return FeatureCache.build(host, dataset)


@pytest.fixture
def tokens(cache):
    generator = torch.Generator().manual_seed(2)
    vectors = {name: torch.randn(3, 2, width, generator=generator) for name, width in WIDTHS.items()}
    return TokenSet(cache.classes, vectors, templates=SHORT.templates, support=cache.support())


def features(host, texts, vectors=None, names=()):
    prompts = host_prompts(host, texts, names, 1)
    vectors = vectors or {name: torch.zeros(1, 1, encoder.width) for name, encoder in host.text.items()}
    with torch.no_grad():
        return encode_prompts(host, prompts, vectors)


def context(text):
    return torch.cat([each.context for each in text.values()], dim=-1)


def encode_prompt(pipeline, texts):
    with torch.no_grad():
        prompt, _, pooled, _ = pipeline.encode_prompt(texts, device="cpu", do_classifier_free_guidance=False)
    return prompt, pooled


def test_two_text_encoders_by_name_and_in_order(plain):
    assert {name: encoder.width for name, encoder in plain.text.items()} == WIDTHS
    assert list(plain.text) == ["clip_l", "clip_g"]
    assert (plain.text["clip_l"].pad_token_id, plain.text["clip_g"].pad_token_id) == (
        plain.text["clip_l"].eos_token_id,
        0,
    )
    assert (plain.image_size, plain.codec.scale) == (32, 0.13025)


def test_prompts_are_encoded_as_the_pipeline_does(plain, pipeline):
    texts = ["a photo of a dog", "a drawing of a red cat on a bowl", ""]
    text = features(plain, texts)
    prompt, pooled = encode_prompt(pipeline, texts)
    assert torch.allclose(context(text), prompt, atol=1e-5)
    assert torch.allclose(text["clip_g"].pooled, pooled, atol=1e-5)
    assert text["clip_l"].pooled is None
    assert not torch.allclose(text["clip_g"].context, text["clip_g"].hidden, atol=0.1)  # hidden: last, with layer norm


def test_pooling_does_not_depend_on_which_id_is_the_highest(xl_model, tmp_path):
    """transformers takes the highest id for the end where the stored config says 2, as SDXL's own does."""
    copy = Path(shutil.copytree(xl_model, tmp_path / "copy"))
    change(copy / "text_encoder_2" / "config.json", eos_token_id=2)
    first, second = (features(load_host(folder), ["a dog on a bowl"])["clip_g"].pooled for folder in (xl_model, copy))
    assert torch.equal(first, second)


def test_rows_keep_what_is_pooled(plain):
    text = features(plain, ["a dog", "a cat"])["clip_g"]
    index = torch.tensor([1, 0, 1])
    assert torch.equal(text.rows(index).pooled, text.pooled[index])
    assert features(plain, ["a dog"])["clip_l"].rows(torch.tensor([0])).pooled is None


def test_a_denoiser_needs_no_hidden_states(plain):
    text = features(plain, ["a dog", "a cat"])
    told = {name: each.conditioning() for name, each in text.items()}
    assert all(each.hidden.numel() == 0 for each in told.values())
    index, latents = torch.tensor([1, 0, 1]), torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        estimates = [
            plain.denoiser.denoise(
                latents, plain.denoiser.sigmas[[20, 500, 900]], {n: e.rows(index) for n, e in of.items()}
            )
            for of in (text, told)
        ]
    assert torch.equal(*estimates)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' own schedule
@pytest.mark.parametrize("size", [(32, 32), (32, 64)])
def test_the_unet_is_called_as_the_pipeline_calls_it(plain, pipeline, size):
    """Time, context, pooled text and sizes (not square either): the same noise, from which the estimate follows."""
    calls = []
    hook = pipeline.unet.register_forward_hook(
        lambda module, inputs, options, output: calls.append((inputs, options, output)), with_kwargs=True
    )
    try:
        pipeline(
            "a photo of a dog", height=size[0], width=size[1], num_inference_steps=3, guidance_scale=1.0,
            generator=torch.Generator().manual_seed(0), output_type="latent",
        )  # fmt: skip
    finally:
        hook.remove()
    assert len(calls) == 3
    text = features(plain, ["a photo of a dog"])
    for (sample, step), options, (output, *_) in calls:
        sigma = plain.denoiser.sigmas[step.long()].view(1)
        noised = sample * (sigma.square() + 1).sqrt()
        with torch.no_grad():
            estimate = plain.denoiser.denoise(noised, sigma, text)
        assert torch.allclose((noised - estimate) / sigma, output, atol=1e-3 / float(sigma.clamp(max=1)))
        told = plain.denoiser.added(noised, text)
        assert torch.equal(told["time_ids"].float(), options["added_cond_kwargs"]["time_ids"].float())
        assert told["time_ids"].tolist() == [[*size, 0, 0, *size]]
        assert torch.allclose(told["text_embeds"], options["added_cond_kwargs"]["text_embeds"], atol=1e-5)


def test_everything_the_unet_is_reported_matters(plain):
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    sigma, text = plain.denoiser.sigmas[[500]], features(plain, ["a photo of a dog"])
    other = features(plain, ["a red cat"])
    with torch.no_grad():
        before = plain.denoiser.denoise(latents, sigma, text)
        for name in text:
            changed = {**text, name: replace(text[name], context=other[name].context)}
            assert not torch.allclose(plain.denoiser.denoise(latents, sigma, changed), before, atol=1e-5)
        changed = {**text, "clip_g": replace(text["clip_g"], pooled=other["clip_g"].pooled)}
        assert not torch.allclose(plain.denoiser.denoise(latents, sigma, changed), before, atol=1e-5)


def test_noise_levels_are_those_of_the_schedule(plain, pipeline):
    alpha_bar = pipeline.scheduler.alphas_cumprod
    assert torch.allclose(plain.denoiser.sigmas, ((1 - alpha_bar) / alpha_bar).sqrt(), rtol=1e-4)
    assert plain.denoiser.prediction == "epsilon"


@pytest.mark.parametrize("word", ["cat", "bowl"])
def test_a_token_that_is_a_word_in_both_encoders_gives_the_words_prompt(plain, pipeline, word):
    vectors = {name: e.embed(torch.tensor([[e.tokenize(word)]]).view(1, 1)) for name, e in plain.text.items()}
    text = features(plain, ["a photo of a {it} on paper", "embedding:it"], vectors, ["it"])
    prompt, pooled = encode_prompt(pipeline, [f"a photo of a {word} on paper", word])
    assert torch.allclose(context(text), prompt, atol=1e-5)
    assert torch.allclose(text["clip_g"].pooled, pooled, atol=1e-5)


def terms(host, cache, tokens, names):
    """The named loss terms of one step, and the vectors that they are of."""
    generator = torch.Generator().manual_seed(0)
    vectors = {name: v.clone().requires_grad_() for name, v in tokens.vectors.items()}
    templates = {name: template_prompts(encoder, SHORT.templates, 2) for name, encoder in host.text.items()}
    every = torch.arange(3)
    prompts = encode_classes(host, templates, vectors, every, every, every, "eot", generator)
    losses = {
        "reconstruction": lambda: reconstruction_loss(
            host, cache, every, prompts.conditioning_of(cache.labels[every]), generator
        ),
        "classification": lambda: batch_classification_loss(host, cache, prompts, SHORT, generator),
    }
    return {name: losses[name]().mean() for name in names}, vectors, prompts


def test_the_noise_error_gives_gradients_to_both_encoders(host, cache, tokens):
    loss, vectors, prompts = terms(host, cache, tokens, ["reconstruction"])
    prompts.conditioning["clip_g"].pooled.retain_grad()
    loss["reconstruction"].backward()
    for gradient in (vectors["clip_l"].grad, vectors["clip_g"].grad, prompts.conditioning["clip_g"].pooled.grad):
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0


def test_the_pooled_text_alone_gives_gradients(plain):
    encoder = plain.text["clip_g"]
    prompts = template_prompts(encoder, ["a photo of a {}"], 1)
    vector = torch.randn(1, 1, 40, generator=torch.Generator().manual_seed(0)).requires_grad_()
    encode_prompts(replace(plain, text={"clip_g": encoder}), {"clip_g": prompts}, {"clip_g": vector})[
        "clip_g"
    ].pooled.square().sum().backward()
    assert vector.grad.isfinite().all()
    assert vector.grad.abs().max() > 0


def test_classification_is_in_the_space_of_the_encoder_that_the_clip_model_fits(host, xl_model, cache, tokens):
    from transformers import CLIPModel

    own = host.clip.encoder
    clip = CLIPModel.from_pretrained(xl_model / own)
    loss, vectors, prompts = terms(host, cache, tokens, ["classification"])
    assert torch.allclose(host.clip.project_text(prompts.pooled), clip.text_projection(prompts.pooled), atol=1e-5)
    assert cache.features.shape[-1] == clip.config.projection_dim
    loss["classification"].backward()
    (other,) = set(vectors) - {own}
    assert vectors[own].grad.isfinite().all()
    assert vectors[own].grad.abs().max() > 0
    assert vectors[other].grad is None


@pytest.fixture
def encoded(host):
    """Prompts that have gone through each text encoder since the test began."""
    rows = dict.fromkeys(host.text, 0)

    def noting(name):
        return lambda module, inputs, options, output: rows.update({name: rows[name] + len(options["input_ids"])})

    hooks = [e.tower.register_forward_hook(noting(name), with_kwargs=True) for name, e in host.text.items()]
    yield rows
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize(
    "settings",
    [{"reconstruction_weight": 0.0, "gamma": 1.0}, {"classification_only_steps": 1, "steps": 1}, {"batch_size": 1}],
)
def test_what_only_serves_the_classification_goes_through_one_encoder(host, cache, tokens, encoded, settings):
    """The other one sees the classes whose prompts condition the denoiser: here one a step, or none."""
    own = host.clip.encoder
    train(host, cache, tokens, replace(SHORT, **{"batch_size": 1, **settings}))
    conditioned = SHORT.steps if settings == {"batch_size": 1} else 0 if "reconstruction_weight" in settings else 1
    assert encoded == {name: SHORT.steps * 3 if name == own else conditioned for name in WIDTHS}


def test_a_clip_classifier_needs_one_encoder(host, tokens, encoded):
    ClipClassifier(host, tokens)
    assert encoded == {name: 3 * len(tokens.templates) * (name == host.clip.encoder) for name in WIDTHS}


def test_noise_error_falls_and_no_weight_changes(host, cache, tokens):
    modules = [e.tower for e in host.text.values()] + [host.denoiser.unet, host.codec.vae, host.clip.module]
    before = [{name: v.clone() for name, v in module.state_dict().items()} for module in modules]
    config = replace(SHORT, steps=30, batch_size=6, lr=0.1, gamma=0.0, weight_decay=0.0)
    templates = {name: template_prompts(encoder, config.templates, 2) for name, encoder in host.text.items()}
    probe = ValidationLoss(host, cache, torch.arange(3), templates)
    learned = train(host, cache, tokens, config).tokens
    assert probe.error(learned.vectors) < probe.error(tokens.vectors) - 1e-3
    assert not any(torch.equal(v, tokens.vectors[name]) for name, v in learned.vectors.items())
    for module, state in zip(modules, before, strict=True):
        assert all(torch.equal(v, state[name]) for name, v in module.state_dict().items())
        assert all(p.grad is None and not p.requires_grad for p in module.parameters())


def test_classification_loss_falls(host, cache, tokens):
    labels, generator = torch.arange(3).repeat(2), torch.Generator().manual_seed(3)
    centres = torch.randn(3, 1, cache.features.shape[-1], generator=generator)
    few = replace(cache, labels=labels, latents=None, features=F.normalize(centres, dim=-1)[labels])
    config = replace(SHORT, steps=40, lr=0.1, reconstruction_weight=0.0, gamma=1.0)
    losses = train(host, few, tokens, config).history["classification"]
    assert sum(losses[-3:]) < 0.6 * sum(losses[:3])


def test_tokens_survive_the_file_and_classify_as_before(host, cache, tokens, dataset, tmp_path):
    learned = train(host, cache, tokens, SHORT).tokens
    loaded = load_tokens(save_tokens(learned, tmp_path / "tokens"))
    assert list(loaded.vectors) == list(WIDTHS)
    assert all(torch.equal(v, learned.vectors[name]) for name, v in loaded.vectors.items())
    images = torch.stack(list(dataset.load(32)))[:2]
    for make in (ClipClassifier, lambda *of: DiffusionClassifier(*of, num_trials=4)):
        first, second = (make(host, each).scores(images).logits for each in (learned, loaded))
        assert first.shape == (2, 3)
        assert first.isfinite().all()
        assert torch.equal(first, second)


def test_the_diffusion_classifier_scores_the_noise_errors(plain):
    """Of each class's prompt, over the classifier's own pairs."""
    vectors = {
        name: torch.randn(2, 1, width, generator=torch.Generator().manual_seed(i))
        for i, (name, width) in enumerate(WIDTHS.items())
    }
    tokens, latents = TokenSet(("a", "b"), vectors), torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(9))
    classifier = DiffusionClassifier(plain, tokens, num_trials=6, alpha=0)
    sigmas, noises = classifier._trials(latents.shape[1:])
    errors = torch.zeros(1, 2)
    with torch.no_grad():
        for label in range(2):
            one = {n: each.rows(torch.full((6,), label)) for n, each in classifier.conditioning.items()}
            clean = latents.expand(6, -1, -1, -1)
            estimate = plain.denoiser.denoise(plain.denoiser.noised(clean, noises, sigmas), sigmas, one)
            errors[0, label] = ((clean - estimate) / sigmas.view(-1, 1, 1, 1)).square().mean()
    assert torch.allclose(classifier.score_latents(latents).logits, -100 * errors, rtol=1e-3)


def test_images_are_generated_and_follow_both_encoders(host, cache, tokens):
    def pictures(tokens):
        return generate(host, ["a photo of a {a}"], tokens, num_inference_steps=3, seed=1)

    images = pictures(tokens)
    assert images.shape == (1, 3, 32, 32)
    assert images.min() >= 0
    assert images.max() <= 1
    for name in WIDTHS:
        assert not torch.equal(pictures(tokens.with_vectors({**tokens.vectors, name: -tokens.vectors[name]})), images)
    assert generate(host, ["a dog"], num_inference_steps=2, size=64).shape == (1, 3, 64, 64)


@pytest.mark.parametrize(("dtype", "upcast", "vae"), [
    ("fp32", True, torch.float32), ("bf16", True, torch.bfloat16), ("fp16", True, torch.float32),
    ("fp16", False, torch.float16),
])  # fmt: skip
def test_an_autoencoder_that_overflows_in_fp16_stays_float32(xl_model, tmp_path, plain, dtype, upcast, vae):
    copy = Path(shutil.copytree(xl_model, tmp_path / "copy"))
    change(copy / "vae" / "config.json", force_upcast=upcast)
    host = load_host(copy, copy / "clip_g", dtype=dtype)
    narrow = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[dtype]
    assert {p.dtype for p in host.codec.vae.parameters()} == {vae}
    for module in (host.denoiser.unet, host.clip.module):
        assert {p.dtype for p in module.parameters()} == {narrow}
    text = torch.float32 if dtype == "fp16" else narrow
    assert all({p.dtype for p in encoder.tower.parameters()} == {text} for encoder in host.text.values())
    images = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    latents, sigma = host.codec.encode(images), host.denoiser.sigmas[[500]]
    with torch.no_grad():
        pair = [h.denoiser.denoise(latents, sigma, features(h, ["a photo of a dog"])) for h in (host, plain)]
    assert pair[0].dtype == latents.dtype == host.codec.decode(latents).dtype == torch.float32
    assert F.cosine_similarity(pair[0].flatten(1), pair[1].flatten(1)).min() > 0.99


def test_training_in_narrow_weights(xl_model, dataset):
    host = load_host(xl_model, xl_model / "clip_g", dtype="bf16")
    cache = FeatureCache.build(host, dataset)
    vectors = {name: torch.randn(3, 1, width) for name, width in WIDTHS.items()}
    learned = train(host, cache, TokenSet(cache.classes, vectors), SHORT).tokens
    for name, vector in learned.vectors.items():
        assert vector.dtype == torch.float32
        assert not torch.equal(vector, vectors[name])
