from dataclasses import replace

import pytest
import torch

from mcti_core.errors import TokenError
from mcti_core.prompts.splicing import encode_prompts, host_prompts, splice, template_prompts
from mcti_core.templates import OBJECT_TEMPLATES


@pytest.fixture
def encoder(tiny_host):
    return tiny_host.text["clip_l"]


@pytest.fixture
def text_model(tiny_model):
    """transformers' own tokenizer and tower, loaded apart from the host."""
    from transformers import CLIPTextModel, CLIPTokenizer

    return (
        CLIPTokenizer.from_pretrained(tiny_model / "tokenizer"),
        CLIPTextModel.from_pretrained(tiny_model / "text_encoder").eval(),
    )


def _own_forward(text_model, texts):
    tokenizer, tower = text_model
    ids = tokenizer(texts, padding="max_length", max_length=77, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return ids, tower(input_ids=ids).last_hidden_state


def test_a_token_that_is_a_word_gives_the_words_prompt(tiny_host, encoder, text_model):
    templates = OBJECT_TEMPLATES[:5]
    (word,) = encoder.tokenize("cat")
    vector = encoder.embed(torch.tensor([[word]]))  # (1, 1, d)
    prompts = template_prompts(encoder, templates, 1)
    with torch.no_grad():
        ours = encode_prompts(tiny_host, {"clip_l": prompts}, {"clip_l": vector})["clip_l"]
    ids, theirs = _own_forward(text_model, [template.format("cat") for template in templates])
    assert torch.allclose(ours.hidden, theirs, atol=1e-5)
    assert torch.equal(ours.context, ours.hidden)
    assert torch.equal(prompts.pooling_position("token"), (ids == word).int().argmax(1))
    assert torch.equal(prompts.end, (ids == encoder.eos_token_id).int().argmax(1))


def test_two_vectors_that_are_two_words(tiny_host, encoder, text_model):
    pair = torch.tensor([encoder.tokenize("cat") + encoder.tokenize("bowl")])  # (1, 2)
    prompts = template_prompts(encoder, ["a photo of a {} on paper"], 2)
    with torch.no_grad():
        ours = encode_prompts(tiny_host, {"clip_l": prompts}, {"clip_l": encoder.embed(pair)})["clip_l"]
    assert torch.allclose(ours.hidden, _own_forward(text_model, ["a photo of a cat bowl on paper"])[1], atol=1e-5)


def test_a_named_prompt_is_the_prompt_with_the_words(tiny_host, encoder, text_model):
    words = torch.tensor([encoder.tokenize("cat"), encoder.tokenize("dog")])  # (C, V)
    vectors = encoder.embed(words).view(1, 2, -1)  # (1, C * V, d)
    texts = ["a cat and a {Your-Dog}", "embedding:my-cat, {your-dog}", "no token here"]
    prompts = host_prompts(tiny_host, texts, ["my-cat", "your-dog"], 1)["clip_l"]
    with torch.no_grad():
        ours = encode_prompts(tiny_host, {"clip_l": prompts}, {"clip_l": vectors})["clip_l"]
    _, theirs = _own_forward(text_model, ["a cat and a dog", "cat, dog", "no token here"])
    assert torch.allclose(ours.hidden, theirs, atol=1e-5)
    assert prompts.pooling_position("token")[2] == prompts.end[2]


def test_splice_puts_each_rows_vectors_at_its_spots(encoder):
    prompts = template_prompts(encoder, ["a photo of a {}", "the {} on paper"], 2)
    vectors = torch.randn(2, 2, encoder.width)
    embedded = splice(encoder, prompts, vectors)
    plain = encoder.embed(prompts.ids)
    for row in range(2):
        for place in range(encoder.length):
            spot = int(prompts.slots[row, place])
            expected = vectors[row, spot] if spot >= 0 else plain[row, place]
            assert torch.equal(embedded[row, place], expected)
    assert prompts.slots.max() == 1
    assert (prompts.slots >= 0).sum(1).tolist() == [2, 2]


def test_gradients_flow_to_the_vectors_and_nowhere_else(encoder):
    prompts = template_prompts(encoder, ["a photo of a {}"] * 3, 2)
    vectors = torch.randn(3, 2, encoder.width, requires_grad=True)
    weights = torch.randn(3, encoder.length, encoder.width)
    (splice(encoder, prompts, vectors) * weights).sum().backward()
    for row in range(3):
        for spot in range(2):
            place = (prompts.slots[row] == spot).nonzero().item()
            assert torch.equal(vectors.grad[row, spot], weights[row, place])
    assert encoder.table.weight.grad is None


def test_one_vector_for_all_rows_gathers_all_their_gradients(encoder):
    prompts = template_prompts(encoder, ["a {}", "the {}"], 1)
    vectors = torch.randn(1, 1, encoder.width, requires_grad=True)
    splice(encoder, prompts, vectors).sum().backward()
    assert torch.equal(vectors.grad, torch.full_like(vectors, 2))


@pytest.mark.parametrize("template", ["no place", "{} and {}", "{name}"])
def test_templates_need_one_place(encoder, template):
    with pytest.raises(TokenError, match="exactly once"):
        template_prompts(encoder, [template], 1)


def test_length_is_checked_to_the_token(encoder):
    longest = encoder.length - 2 - 1
    template_prompts(encoder, ["a " * longest + "{}"], 1)
    with pytest.raises(TokenError, match=f"has {longest + 2} tokens; at most {longest + 1} fit"):
        template_prompts(encoder, ["a " * longest + "{}"], 2)


def test_a_message_quotes_only_the_begin_of_a_long_prompt(encoder):
    with pytest.raises(TokenError) as told:
        template_prompts(encoder, ["{}" + " a" * 900], 1)
    assert len(str(told.value)) < 250


def test_vectors_for_other_text_encoders_are_refused(tiny_host):
    prompts = host_prompts(tiny_host, ["{a}"], ["a"], 1)
    for vectors, message in (
        ({"clip_l": torch.zeros(1, 1, 768)}, "for clip_l, 768 wide; this model has clip_l, 32 wide"),
        ({"clip_h": torch.zeros(1, 1, 32)}, "for clip_h, 32 wide; this model has clip_l, 32 wide"),
        (
            {"clip_l": torch.zeros(1, 1, 32), "clip_g": torch.zeros(1, 1, 32)},
            "clip_l, 32 wide and clip_g, 32 wide; this",
        ),
    ):
        with pytest.raises(TokenError, match=message):
            encode_prompts(tiny_host, prompts, vectors)


def test_only_encoders_with_prompts_are_run(tiny_host, encoder):
    """In the host's order, in which a denoiser takes them; the vectors must still be for all of the host's encoders."""
    host = replace(tiny_host, text={name: encoder for name in ("first", "second", "third")})
    prompts, vectors = template_prompts(encoder, ["a {}"], 1), dict.fromkeys(host.text, torch.zeros(1, 1, 32))
    with torch.no_grad():
        assert list(encode_prompts(host, {"third": prompts, "first": prompts}, vectors)) == ["first", "third"]
    with pytest.raises(TokenError, match="the tokens are for first, 32 wide; this model has first"):
        encode_prompts(host, {"first": prompts}, {"first": vectors["first"]})


@pytest.mark.parametrize("pooling", ["eot", "token"])
def test_text_features_do_not_need_the_padding(tiny_host, encoder, pooling):
    prompts = template_prompts(encoder, ["a {}", "a photo of a {} on paper", "the {}"], 2)
    short = prompts.without_padding()
    assert short.ids.shape == (3, int(prompts.end.max()) + 1)
    vectors = torch.randn(3, 2, encoder.width, generator=torch.Generator().manual_seed(5))
    found = []
    for laid_out in (prompts, short):
        own = vectors.clone().requires_grad_()
        hidden = encode_prompts(tiny_host, {"clip_l": laid_out}, {"clip_l": own})["clip_l"].hidden
        feature = hidden[torch.arange(3), laid_out.pooling_position(pooling)]
        (feature * torch.linspace(-1, 1, feature.shape[1])).sum().backward()
        found.append((feature.detach(), own.grad))
    for whole, cut in zip(*found, strict=True):
        assert torch.allclose(whole, cut, atol=1e-5)
        assert whole.abs().max() > 0.01
