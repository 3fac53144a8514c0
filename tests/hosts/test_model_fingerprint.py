from uuid import uuid4

import torch

from mcti_core.hosts.comfy.model_fingerprint import lora_fingerprint


class Adapter:
    """As the host's weight adapters are."""

    def __init__(self, *weights):
        self.weights, self.loaded_keys = weights, {str(uuid4())}

    def calculate_weight(self, *arguments):
        raise AssertionError


def _patches(strength=1.0, number=1.0, alpha=4.0, offset=None):
    return {
        "b.weight": [(strength, Adapter(torch.ones(4, 2), torch.full((2, 4), number), alpha, None, None), 1.0, None, None)],
        "a.weight": [(1.0, ("diff", (torch.ones(3, 3),)), 1.0, offset, None), (0.5, ("set", (torch.zeros(3),)), 1.0, None, None)],
    }  # fmt: skip


def test_the_same_patches_have_the_same_fingerprint():
    first = lora_fingerprint(_patches(), uuid4())
    assert first == lora_fingerprint(dict(reversed(_patches().items())), uuid4())
    assert len(first) == 16
    assert lora_fingerprint({}, uuid4()) == ""


def test_every_other_patch_has_another():
    others = [_patches(), _patches(0.9), _patches(number=1.1), _patches(alpha=2.0), _patches(offset=(0, 1, 2))]
    swapped = _patches()
    swapped["a.weight"].reverse()
    assert len({lora_fingerprint(patches, "") for patches in [*others, swapped]}) == 6


def test_what_cannot_be_distinguished_goes_by_the_hosts_own_id():
    patches = {"a.weight": [(1.0, ("diff", (torch.ones(3),)), 1.0, None, lambda weight: weight)]}
    assert lora_fingerprint(patches, "the id") == "the id"
