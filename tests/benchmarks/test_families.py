import pytest
import torch
from torch import nn

from benchmarks.families import CARDS, FAMILIES, least_card, step_bytes

WIDTH, ROWS = 64, 1000


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.inner = nn.Linear(WIDTH, WIDTH), nn.ModuleList([nn.Identity()])

    def forward(self, x):
        x = x + 0
        x += self.linear(x.square()).exp().exp()  # in place, as ComfyUI's blocks
        return x


@pytest.fixture
def model():
    model = nn.Module()
    model.net = nn.Module()
    model.net.layers, model.table = nn.ModuleList([Block() for _ in range(8)]), nn.Linear(WIDTH, 3)
    return model.requires_grad_(False)


@pytest.mark.parametrize(("needed", "card"), [(0.1e9, 4), (4e9, 4), (4.01e9, 6), (141e9, 141), (142e9, None)])
def test_least_card_is_the_smallest_that_suffices(needed, card):
    assert list(CARDS) == sorted(CARDS)
    assert least_card(needed) == card


def test_step_bytes_of_checkpointed_blocks_are_what_they_save_and_one_block(model):
    x = torch.zeros(ROWS, WIDTH, requires_grad=True)

    def step():
        y = x
        for block in model.net.layers:
            y = block(y)
        return torch.autograd.grad(y.sum(), x)

    one, whole = ROWS * WIDTH * 4, sum(weight.numel() * 4 for weight in model.parameters())
    weights, peak = step_bytes([model], step)
    assert weights == whole
    assert 8 * one < peak - weights < 8 * one + 10 * one  # each block's input, and what one block makes
    assert step_bytes([model], step, checkpointing=False)[1] - weights > 8 * 3 * one


def test_families_are_sorted_by_size():
    sizes = [family.published for family in FAMILIES.values()]
    assert sizes == sorted(sizes)
