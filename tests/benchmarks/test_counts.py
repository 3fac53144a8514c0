"""Cost of a training, counted and not timed, so that it does not depend on the machine."""

import shutil
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from benchmarks.models import VOCABULARY, write_whole_tokenizer
from benchmarks.plain_recipe import PlainRecipe, PlainSettings
from mcti_core.data.dataset import FewShotDataset
from mcti_core.data.feature_cache import FeatureCache
from mcti_core.tokens.token_set import TokenSet
from mcti_core.training.config import TrainConfig
from mcti_core.training.loop import train

CONFIG = TrainConfig(steps=4, batch_size=6, lr=1e-3, templates=("a photo of a {}", "a drawing of the {}"))


class Watch(TorchDispatchMode):
    """Notes, while code runs, new tensors of at least ``least`` numbers, and how often the host reads what a GPU would compute.

    That is whatever was computed from weights: on a GPU, to read it is to wait until all work before it is done.
    """

    def __init__(self, least=1 << 60):
        super().__init__()
        self.least, self.large, self.waits = least, [], 0
        self.computed = set()  # storages of what came of weights

    def __enter__(self):
        self.patch = pytest.MonkeyPatch()
        for name in ("tolist", "numpy"):  # these do not pass the dispatcher
            self.patch.setattr(torch.Tensor, name, self._reading(getattr(torch.Tensor, name)))
        return super().__enter__()

    def __exit__(self, *error):
        self.patch.undo()
        return super().__exit__(*error)

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        taken = [t for t in tree_iter((args, kwargs)) if isinstance(t, torch.Tensor)]
        made_of_numbers = (
            operation.overloadpacket is torch.ops.aten.lift_fresh
        )  # by torch.tensor, where another may have been
        places, computed = {_place(t) for t in taken}, not made_of_numbers and any(map(self._is_computed, taken))
        self.waits += computed and operation.overloadpacket is torch.ops.aten._local_scalar_dense
        for tensor in (t for t in tree_iter(result) if isinstance(t, torch.Tensor)):
            (self.computed.add if computed else self.computed.discard)(_place(tensor))
            if tensor.numel() >= self.least and _place(tensor) not in places:  # neither a view nor written in place
                self.large.append(str(operation))
        return result

    def _is_computed(self, tensor):
        return isinstance(tensor, torch.nn.Parameter) or _place(tensor) in self.computed

    def _reading(self, method):
        def read(tensor, *args, **kwargs):
            self.waits += self._is_computed(tensor)
            return method(tensor, *args, **kwargs)

        return read


def _place(tensor):
    return tensor.untyped_storage().data_ptr()


@dataclass
class Counting:
    """A part of a host that passes everything on and notes how many rows came in."""

    inner: Any
    rows: dict[str, list[int]] = field(default_factory=dict)

    def __getattr__(self, name):
        found = getattr(self.inner, name)
        if name not in ("encode", "image_features", "denoise"):
            return found

        def counted(first, *rest):
            self.rows.setdefault(name, []).append(len(first))
            return found(first, *rest)

        return counted

    def total(self, name):
        return sum(self.rows.get(name, []))


@pytest.fixture
def counted(tiny_host):
    """The tiny host with counters at every door."""
    parts = {name: Counting(getattr(tiny_host, name)) for name in ("denoiser", "codec", "clip")}
    return replace(tiny_host, text={"clip_l": Counting(tiny_host.text["clip_l"])}, **parts)


@pytest.fixture(scope="module")
def wide_model(tiny_model, tmp_path_factory):
    """The tiny model with tokenizer and token table of full length."""
    from transformers import CLIPTextModel

    folder = tmp_path_factory.mktemp("wide") / "model"
    shutil.copytree(tiny_model, folder)
    tower = CLIPTextModel.from_pretrained(folder / "text_encoder")
    torch.manual_seed(0)
    tower.resize_token_embeddings(VOCABULARY, mean_resizing=False)
    tower.save_pretrained(folder / "text_encoder")
    shutil.rmtree(folder / "tokenizer")
    write_whole_tokenizer(folder / "tokenizer")
    return folder


@pytest.mark.parametrize("steps", [2, 9])
@pytest.mark.parametrize("mirror", [False, True])
def test_every_image_passes_vae_and_vision_tower_once_however_long_the_training(
    counted, dataset, tokens, steps, mirror
):
    cache = FeatureCache.build(counted, dataset, hflip=mirror)
    train(counted, cache, tokens, replace(CONFIG, steps=steps))
    assert counted.codec.total("encode") == len(dataset) * (1 + mirror)
    assert counted.clip.total("image_features") == len(dataset) * (1 + mirror)


@pytest.mark.parametrize("batch", [3, 6, 12])
def test_a_step_encodes_each_class_once_and_each_image_of_the_batch_once(counted, cache, tokens, batch):
    """Classes come in turns, so that a batch of at least three has them all."""
    train(counted, cache, tokens, replace(CONFIG, batch_size=batch))
    assert counted.text["clip_l"].total("encode") == CONFIG.steps * len(cache.classes)
    assert counted.denoiser.rows["denoise"] == [batch] * CONFIG.steps


def test_the_usual_recipe_sends_every_image_through_all_of_it_every_time(tiny_model, dataset):
    """That the counts above are a difference."""
    recipe, calls = PlainRecipe(tiny_model), {"vae": 0, "text": 0}
    examples = recipe.examples(dataset, hflip=False)
    recipe.vae.encoder.register_forward_hook(lambda *_: calls.update(vae=calls["vae"] + 1))
    recipe.tower.register_forward_hook(lambda *_: calls.update(text=calls["text"] + 1))
    recipe.train_class(examples, 0, PlainSettings(steps=2, accumulation=4))
    assert calls == {"vae": 8, "text": 8}


def _wide_training(folder):
    from mcti_core.hosts.diffusers.host import load_host

    host = load_host(folder, folder / "clip")
    data = _photos()
    cache = FeatureCache.build(host, data)
    vectors = torch.randn(3, 1, 32, generator=torch.Generator().manual_seed(0))
    return lambda: train(host, cache, TokenSet(data.classes, {"clip_l": vectors}), CONFIG)


def _photos():
    generator = torch.Generator().manual_seed(1)
    return FewShotDataset.from_images({name: torch.rand(2, 3, 32, 32, generator=generator) for name in "abc"})


def test_nothing_as_large_as_the_vocabulary_is_made_in_training(wide_model):
    run = _wide_training(wide_model)
    with Watch(least=VOCABULARY * 32) as seen:
        run()
    assert not seen.large


def test_the_usual_recipe_makes_several_of_them_a_step(wide_model):
    """That the counter can see: of every micro-step's, the table's gradient and the rows that are written back."""
    recipe, settings = PlainRecipe(wide_model), PlainSettings(steps=2, accumulation=4)
    examples = recipe.examples(_photos(), hflip=True)
    with Watch(least=VOCABULARY * 32) as seen:
        recipe.train_class(examples, 0, settings)
    assert len(seen.large) >= 2 * settings.steps * settings.accumulation


def test_the_host_hardly_ever_waits(tiny_host, cache, tokens):
    with Watch() as seen:
        train(tiny_host, cache, tokens, replace(CONFIG, steps=64))
    assert 0 < seen.waits <= 64 / 8 + 4


def test_waiting_would_be_seen(tiny_host, cache, tokens):
    with Watch() as seen:
        train(tiny_host, cache, tokens, replace(CONFIG, steps=8), on_step=lambda info: info.tokens())
    assert seen.waits >= 8
