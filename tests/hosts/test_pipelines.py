"""A loaded pipeline gives the same host as its folder, does not change, and draws learned tokens."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from mcti_core.errors import HostError, TokenError
from mcti_core.hosts.diffusers.host import load_host
from mcti_core.hosts.diffusers.pipelines import add_to_pipeline, host_from_pipeline
from mcti_core.sampling import generate
from mcti_core.tokens.token_set import TokenSet
from mcti_core.training.config import TrainConfig
from mcti_core.training.loop import train

SHORT = TrainConfig(steps=2, batch_size=2, lr=0.01, lr_warmup_steps=0, templates=("a photo of a {}",))


@pytest.fixture
def pipe(tiny_model):
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(tiny_model, safety_checker=None)


@pytest.fixture
def xl_pipe(xl_model):
    from diffusers import StableDiffusionXLPipeline

    return StableDiffusionXLPipeline.from_pretrained(xl_model, add_watermarker=False)


def set_of(host, count=1):
    generator = torch.Generator().manual_seed(3)
    widths = {name: encoder.width for name, encoder in host.text.items()}
    vectors = {name: torch.randn(2, count, width, generator=generator) for name, width in widths.items()}
    return TokenSet(("my dog", "猫"), vectors)


def weights_of(pipe):
    modules = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    return [weight for module in modules for weight in module.parameters()]


def test_host_of_a_pipeline_is_that_of_its_folder_and_trains_the_same(pipe, tiny_model, tiny_host, cache, tokens):
    host = host_from_pipeline(pipe, tiny_model / "clip")
    assert (host.fingerprint, host.name, host.image_size) == (
        tiny_host.fingerprint,
        tiny_host.name,
        tiny_host.image_size,
    )
    first, second = (train(each, cache, tokens, SHORT).tokens for each in (host, tiny_host))
    for name, vectors in first.vectors.items():
        assert torch.allclose(vectors, second.vectors[name], atol=1e-6)


def test_pipeline_stays_as_it_is(pipe, cache, tokens):
    before = [(weight.data_ptr(), weight.requires_grad, weight.stride()) for weight in weights_of(pipe)]
    config = replace(SHORT, gamma=0.0)
    train(host_from_pipeline(pipe), cache, tokens, config)
    assert [(w.data_ptr(), w.requires_grad, w.stride()) for w in weights_of(pipe)] == before
    assert all(weight.grad is None for weight in weights_of(pipe))


def test_host_of_an_xl_pipeline_draws_as_that_of_its_folder(xl_pipe, xl_model):
    first, second = (
        generate(host, ["a cat"], num_inference_steps=2) for host in (host_from_pipeline(xl_pipe), load_host(xl_model))
    )
    assert torch.allclose(first, second, atol=1e-5)


def test_half_precision_pipeline_keeps_its_text_encoders(xl_pipe):
    xl_pipe.to(torch.float16)
    host = host_from_pipeline(xl_pipe)
    assert host.text["clip_g"].table.weight.dtype == host.codec.dtype == torch.float32
    assert host.denoiser.unet is xl_pipe.unet
    assert {weight.dtype for weight in weights_of(xl_pipe)} == {torch.float16}


def test_pipelines_that_are_no_host_are_refused(pipe):
    with pytest.raises(HostError, match="SimpleNamespace lacks parts"):
        host_from_pipeline(SimpleNamespace(text_encoder=pipe.text_encoder))
    pipe.text_encoder.to(torch.float64)
    pipe.unet.to(torch.float64)
    with pytest.raises(HostError, match="float64; load it in one of fp32"):
        host_from_pipeline(pipe)
    pipe.unet.to("meta")
    with pytest.raises(HostError, match="several devices"):
        host_from_pipeline(pipe)
    pipe.unet._hf_hook = object()
    with pytest.raises(HostError, match="offloads its weights"):
        host_from_pipeline(pipe)


@pytest.mark.parametrize("count", [1, 3])
def test_tokens_in_a_pipeline_condition_it_as_they_condition_the_host(pipe, count):
    """Drawn by diffusers' own loop, and compared by its context; a host from before still draws the same."""
    from mcti_core.prompts.splicing import encode_prompts, host_prompts

    host = host_from_pipeline(pipe)
    tokens = set_of(host, count)
    words = add_to_pipeline(pipe, tokens)
    assert words == {"my dog": "<my-dog>", "猫": "<猫>"}
    prompts = host_prompts(host, ["a {my dog} and a {猫}"], tokens.names, count, tokens.labels)
    with torch.inference_mode():
        expected = encode_prompts(host, prompts, {"clip_l": tokens.vectors["clip_l"].flatten(0, 1)[None]})[
            "clip_l"
        ].context
        found = pipe.encode_prompt("a <my-dog> and a <猫>", "cpu", 1, do_classifier_free_guidance=False)[0]
    assert torch.allclose(found, expected, atol=1e-5)


def test_tokens_of_two_encoders_are_added_to_both(xl_pipe):
    host = host_from_pipeline(xl_pipe)
    tokens = set_of(host)
    before = xl_pipe.encode_prompt("a <my-dog>", device="cpu", do_classifier_free_guidance=False)
    add_to_pipeline(xl_pipe, tokens)
    after = xl_pipe.encode_prompt("a <my-dog>", device="cpu", do_classifier_free_guidance=False)
    for number, encoder, tokenizer in ((0, xl_pipe.text_encoder, xl_pipe.tokenizer), (1, xl_pipe.text_encoder_2, xl_pipe.tokenizer_2)):  # fmt: skip
        row = encoder.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids("<my-dog>")]
        assert torch.equal(row, list(tokens.vectors.values())[number][0, 0])
    assert (before[0] - after[0]).abs().max() > 0.1
    assert (before[2] - after[2]).abs().max() > 1e-3


def test_tokens_that_do_not_fit_leave_the_pipeline_alone(pipe):
    tokens = set_of(host_from_pipeline(pipe))
    size = len(pipe.tokenizer)
    other = replace(tokens, vectors={"clip_l": torch.zeros(2, 1, 768)})
    with pytest.raises(TokenError, match="clip_l, 768 wide; this pipeline has clip_l, 32 wide"):
        add_to_pipeline(pipe, other)
    assert len(pipe.tokenizer) == size
    add_to_pipeline(pipe, tokens.select([1]))
    with pytest.raises(TokenError, match=r"already has <猫>; call pipe.unload_textual_inversion"):
        add_to_pipeline(pipe, tokens)
    assert len(pipe.tokenizer) == size + 1


@pytest.mark.parametrize("word", ["<my-dog>_2", "<猫>_1", "<猫>_3"])
def test_any_word_of_a_token_in_the_pipeline_is_refused(pipe, word):
    tokens = set_of(host_from_pipeline(pipe), count=4)
    pipe.tokenizer.add_tokens([word])
    with pytest.raises(TokenError, match=f"already has {word}"):
        add_to_pipeline(pipe, tokens)
    assert pipe.text_encoder.get_input_embeddings().weight.shape[0] == len(pipe.tokenizer) - 1


@pytest.mark.parametrize("value", [1e6, -7e4])
def test_numbers_that_half_precision_lacks_are_refused_before_anything_is_added(xl_pipe, value):
    tokens = set_of(host_from_pipeline(xl_pipe))
    tokens.vectors["clip_g"][1, 0, 0] = value
    xl_pipe.to(torch.float16)
    size = len(xl_pipe.tokenizer)
    with pytest.raises(TokenError, match="cannot store"):
        add_to_pipeline(xl_pipe, tokens)
    assert len(xl_pipe.tokenizer) == size
