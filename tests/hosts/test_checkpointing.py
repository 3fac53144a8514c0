"""Gradient checkpointing: the same gradients from fewer saved tensors."""

import pytest
import torch
from torch import nn

from mcti_core.hosts.checkpointing import blocks_of, checkpointed


def _step(host):
    """Gradient of a noise error with respect to the context, and the bytes that backward kept."""
    generator = torch.Generator().manual_seed(0)
    x, sigma = torch.randn(3, 4, 8, 8, generator=generator), torch.tensor([0.5, 2.0, 8.0])
    encoder = host.text["clip_l"]
    ids = torch.full((3, 77), encoder.bos_token_id)
    embeds = torch.randn(3, 77, 32, generator=generator).requires_grad_()
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    text = {"clip_l": encoder.encode(ids, embeds)}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = host.denoiser.denoise(x, sigma, text).square().mean()
    loss.backward()
    return embeds.grad, sum(kept.values())


def test_same_gradient_and_less_kept(tiny_host):
    with tiny_host.session("text", "denoiser", gradients=True):
        gradient, kept = _step(tiny_host)
    with tiny_host.session("text", "denoiser", gradients=True, checkpointing=True):
        again, less = _step(tiny_host)
    assert torch.allclose(gradient, again, atol=1e-7)
    assert gradient.abs().max() > 1e-6
    assert less < 0.5 * kept


def test_the_model_is_as_it_was(tiny_host):
    def replaced():
        return [module for module in tiny_host.denoiser.unet.modules() if "forward" in vars(module)]

    def fail():
        with tiny_host.session("denoiser", checkpointing=True):
            assert replaced()
            raise RuntimeError

    before = replaced()
    with pytest.raises(RuntimeError):
        fail()
    assert replaced() == before


def test_what_others_write_into_a_shared_dict_is_not_seen_the_second_time():
    class Block(nn.Module):
        def forward(self, x, options):
            return x**2 * options["block"]

    blocks, options = [Block(), Block()], {}
    x = torch.tensor([3.0], requires_grad=True)
    with checkpointed(blocks):
        y = x
        for number, block in enumerate(blocks, start=1):
            options["block"] = number
            y = block(y, options)
    y.backward()
    assert x.grad == 8 * 3**3  # of 2 x^4


def test_nothing_is_computed_twice_without_gradients():
    calls = []
    block = nn.Identity()
    block.register_forward_hook(lambda module, inputs, output: calls.append(1))
    with checkpointed([block]), torch.no_grad():
        block(torch.ones(1))
    assert calls == [1]


def test_blocks_of_nested_lists_are_the_outermost():
    block = nn.Sequential(nn.ModuleList([nn.Identity()]))
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ModuleList([block, nn.Identity()])))
    assert list(blocks_of(model)) == list(model[1][0])


def test_a_forward_that_was_replaced_already_is_restored():
    block = nn.Linear(2, 2)
    block.forward = own = lambda x: x * 3
    x = torch.ones(1, requires_grad=True)
    with checkpointed([block]):
        assert block.forward is not own
        assert torch.autograd.grad(block(x).sum(), x)[0].item() == 3
    assert block.forward is own
