"""diffusers' reader loads the written embeddings, and its prompts then give the same features as ours."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from mcti_core.prompts.splicing import encode_prompts, host_prompts
from mcti_core.tokens.io import export_embedding, export_embeddings, import_embeddings
from mcti_core.tokens.token_set import TokenSet

PROMPTS = ("a photo of a {}", "{}", "the cat and a {} in a bowl, {}")


@pytest.fixture
def pipeline(tiny_model):
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(tiny_model, safety_checker=None)


@pytest.fixture(params=[1, 3], ids=["one vector", "three vectors"])
def tokens(request, tiny_host):
    generator = torch.Generator().manual_seed(4)
    vectors = torch.randn(2, request.param, tiny_host.text["clip_l"].width, generator=generator)
    return TokenSet(("my dog", "猫"), {"clip_l": vectors})


def contexts_here(host, tokens):
    texts = [prompt.replace("{}", f"{{{name}}}") for prompt in PROMPTS for name in tokens.names]
    prompts = host_prompts(host, texts, tokens.names, tokens.vectors_per_token)
    with torch.inference_mode():
        return encode_prompts(host, prompts, {"clip_l": tokens.vectors["clip_l"].flatten(0, 1)[None]})["clip_l"].context


def contexts_there(pipeline, words):
    texts = [prompt.replace("{}", word) for prompt in PROMPTS for word in words]
    with torch.inference_mode():
        return pipeline.encode_prompt(texts, "cpu", 1, do_classifier_free_guidance=False)[0]


@pytest.mark.parametrize("layout", ["comfyui", "onetrainer"])
def test_under_a_token_that_one_chooses(layout, pipeline, tiny_host, tokens, tmp_path):
    for path, word in zip(export_embeddings(tokens, tmp_path, layout=layout), ("<one>", "<two>"), strict=True):
        pipeline.load_textual_inversion(str(path.parent), weight_name=path.name, token=word)
    assert torch.allclose(contexts_there(pipeline, ["<one>", "<two>"]), contexts_here(tiny_host, tokens), atol=1e-5)


def test_under_the_files_own_token(pipeline, tiny_host, tokens, tmp_path):
    for path in export_embeddings(tokens, tmp_path, layout="diffusers"):
        pipeline.load_textual_inversion(str(path.parent), weight_name=path.name)
    words = [f"<{name}>" for name in tokens.names]
    assert torch.allclose(contexts_there(pipeline, words), contexts_here(tiny_host, tokens), atol=1e-5)


def test_two_encoders_as_its_manual_loads_sdxl(pipeline, tiny_host, tokens, tmp_path):
    """``load_textual_inversion(state_dict["clip_g"], token=..., text_encoder=..., tokenizer=...)``, encoder by encoder."""
    both = replace(tokens, vectors={"clip_l": tokens.vectors["clip_l"], "clip_g": -tokens.vectors["clip_l"]})
    state = load_file(export_embedding(both, 0, tmp_path))
    for key in ("clip_l", "clip_g"):
        pipeline.load_textual_inversion(
            state[key], token=f"<{key}>", text_encoder=pipeline.text_encoder, tokenizer=pipeline.tokenizer
        )
        one = TokenSet(("my dog",), {"clip_l": both.vectors[key][:1]})
        assert torch.allclose(contexts_there(pipeline, [f"<{key}>"]), contexts_here(tiny_host, one), atol=1e-5)


@pytest.mark.parametrize("layout", ["comfyui", "diffusers", "onetrainer"])
def test_we_read_all_of_it_back(layout, tokens, tmp_path):
    again = import_embeddings(export_embeddings(tokens, tmp_path, layout=layout))
    assert (again.labels, again.names) == (tokens.labels, tokens.names)
    assert torch.equal(again.vectors["clip_l"], tokens.vectors["clip_l"])
