from dataclasses import replace

import pytest
import torch

from mcti_core.hosts.features import hidden_at
from mcti_core.prompts.splicing import encode_prompts, template_prompts
from mcti_core.training.objective import _one_of_each, encode_classes

TEMPLATES = ("a photo of a {}", "a drawing of the {} on paper")


@pytest.mark.parametrize("counts", [[2, 3, 4], [4, 4, 4], [3, 3, 1, 5, 5, 5, 3], [1], [1, 1]])
def test_one_image_of_each_class_is_drawn_as_if_one_after_another(cache, counts):
    """So that a seed means the same whether or not classes have as many images."""
    random = torch.Generator().manual_seed(sum(counts))
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=random)]
    few = replace(cache, classes=tuple(map(str, range(len(counts)))), labels=labels)
    for seed in range(20):
        ours, theirs = (torch.Generator().manual_seed(seed) for _ in range(2))
        for _ in range(3):
            members = [(labels == label).nonzero()[:, 0] for label in range(len(counts))]
            expected = [own[torch.randint(0, len(own), (), generator=theirs)] for own in members]
            assert torch.equal(_one_of_each(few, ours), torch.stack(expected))
        assert torch.equal(ours.get_state(), theirs.get_state())


@pytest.mark.parametrize("pooling", ["eot", "token"])
@pytest.mark.parametrize("conditioning", [[], [1], [0, 2], [0, 1, 2]])
def test_a_text_feature_is_the_same_whatever_else_its_prompt_serves(tiny_host, tokens, pooling, conditioning):
    templates = {"clip_l": template_prompts(tiny_host.text["clip_l"], TEMPLATES, 2)}
    every, drawn = torch.arange(3), torch.randint(0, 2, (3,), generator=torch.Generator().manual_seed(7))
    own = templates["clip_l"].rows(drawn)
    with torch.no_grad():
        found = encode_classes(
            tiny_host, templates, tokens.vectors, every, every, torch.tensor(conditioning, dtype=torch.long), pooling,
            torch.Generator().manual_seed(7),
        )  # fmt: skip
        whole = encode_prompts(tiny_host, {"clip_l": own}, tokens.vectors)["clip_l"]
    assert torch.allclose(found.pooled, hidden_at(whole.hidden, own.pooling_position(pooling)), atol=1e-5)
    assert found.conditioning.keys() == ({"clip_l"} if conditioning else set())
    if conditioning:
        context = found.conditioning_of(torch.tensor(conditioning))["clip_l"].context
        assert torch.allclose(context, whole.context[conditioning], atol=1e-5)


def test_without_a_clip_space_no_text_feature_is_read(tiny_host, tokens):
    templates, every = {"clip_l": template_prompts(tiny_host.text["clip_l"], TEMPLATES, 2)}, torch.arange(3)
    bare, random = replace(tiny_host, clip=None), torch.Generator().manual_seed(0)
    found = encode_classes(bare, templates, tokens.vectors, every, every, every, "eot", random)
    assert found.pooled is None
    assert found.conditioning["clip_l"].context.shape == (3, 77, 32)
