"""Prompts of different sizes in one batch, and operators that overwrite nothing."""

import torch

from mcti_core.hosts.comfy.out_of_place import out_of_place
from mcti_core.hosts.features import Conditioning


def prompts():
    random = torch.Generator().manual_seed(0)
    return [
        {"cross_attn": torch.randn(1, length, 3, generator=random), "attention_mask": torch.ones(1, length).long()}
        for length in (2, 5, 4)
    ]


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_conditioning_of_prompts_of_different_sizes_gives_back_each():
    given = prompts()
    found = Conditioning.of(given)
    assert all(same(found.single(row), prompt) for row, prompt in enumerate(given))
    picked = found.rows(torch.tensor([2, 0, 2]))
    assert all(same(picked.single(row), given[index]) for row, index in enumerate((2, 0, 2)))
    assert same(found.rows(slice(1, 3)).single(0), given[1])


def test_conditioning_of_joined_parts_is_that_of_all():
    given = prompts()
    joined = Conditioning.joined([Conditioning.of(given[:1]), Conditioning.of(given[1:])])
    assert all(same(joined.single(row), prompt) for row, prompt in enumerate(given))


def test_conditioning_passes_gradients_to_numbers_alone():
    found = Conditioning.of(prompts())
    assert list(found.tensors()) == ["cross_attn"]
    doubled = found.with_tensors({"cross_attn": 2 * found.named["cross_attn"]})
    assert torch.equal(doubled.single(1)["cross_attn"], 2 * found.single(1)["cross_attn"])
    assert torch.equal(doubled.single(1)["attention_mask"], found.single(1)["attention_mask"])


def test_out_of_place_makes_new_tensors_of_operators_and_out():
    x, y = torch.ones(2, dtype=torch.float16), torch.ones(2)
    before = x
    with out_of_place():
        x += y
        z = torch.add(y, y, out=y)
    assert (before.tolist(), x.tolist(), x.dtype) == ([1, 1], [2, 2], torch.float16)
    assert (y.tolist(), z.tolist()) == ([1, 1], [2, 2])


def test_out_of_place_leaves_calls_and_parts_as_they_are():
    x, y = torch.ones(2), torch.ones(2)
    with out_of_place():
        x.add_(1)
        y[:1] += 1
    assert (x.tolist(), y.tolist()) == ([2, 2], [2, 1])
    with out_of_place(), torch.no_grad():
        z = x
        z += 1
    assert x.tolist() == [3, 3]


def test_out_of_place_lets_backward_run_through_a_layer_that_adds_in_place():
    x = torch.tensor([0.5, 2.0], requires_grad=True)
    with out_of_place():
        y = x.exp()
        y += y.square()  # which saved what would be overwritten
        y.sum().backward()
    assert torch.allclose(x.grad, x.detach().exp() + 2 * (2 * x.detach()).exp())
