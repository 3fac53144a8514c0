"""Tensors that autograd saved are compared with those that it reads."""

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F

from mcti_core.errors import HostError
from mcti_core.training.saved_tensors import saved_tensors_verified


def test_saved_tensors_of_an_ordinary_step_pass_and_change_no_gradient():
    torch.manual_seed(0)
    x, weight = torch.randn(5, 4), torch.randn(3, 4)
    plain = x.clone().requires_grad_()
    (plain @ weight.T).square().sum().backward()
    verified = x.clone().requires_grad_()
    with saved_tensors_verified():
        (verified @ weight.T).square().sum().backward()
    assert torch.equal(plain.grad, verified.grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_saved_tensors_overwritten_through_the_same_memory_raise(dtype, value):
    memory = bytearray(12 * dtype.itemsize)
    weight = torch.frombuffer(memory, dtype=dtype).view(3, 4)
    weight.fill_(1.5)
    x = torch.ones(5, 4, dtype=dtype, requires_grad=True)

    def step():
        with saved_tensors_verified():
            loss = (x @ weight.T).sum()
            torch.frombuffer(memory, dtype=dtype).fill_(value)  # autograd's version counters see nothing of it
            loss.backward()

    with pytest.raises(HostError, match=r"overwrote 1 of \d tensors"):
        step()


def test_saved_tensors_that_hold_nan_from_the_start_pass():
    x = torch.tensor([1.0, float("nan")], requires_grad=True)
    with saved_tensors_verified():
        x.square().sum().backward()
    assert x.grad[0] == 2


@pytest.mark.parametrize(
    "operation",
    [lambda x: F.scaled_dot_product_attention(x, x, x), lambda x: F.group_norm(x, 2), lambda x: x.softmax(-1)],
    ids=["attention", "group norm", "softmax"],
)
def test_saved_tensors_of_a_step_without_backward_pass_are_freed(operation):
    """Attention and group norm save their own outputs."""
    x = torch.randn(1, 2, 8, 4, requires_grad=True)
    inside = x * 3
    watched = weakref.ref(inside)
    with saved_tensors_verified():
        result = operation(inside)
    del inside, result
    gc.collect()
    assert watched() is None
