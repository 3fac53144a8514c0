import json
import math
import os
import struct
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from mcti_core.errors import FileError, ResumeError
from mcti_core.tokens.io import save_tokens
from mcti_core.training.checkpoint import load_checkpoint, save_checkpoint
from mcti_core.training.initial import new_tokens
from mcti_core.training.loop import TrainConfig, train
from mcti_core.training.state import TrainState

CONFIG = TrainConfig(
    steps=5, classification_only_steps=1, batch_size=2, lr=1e-2, lr_warmup_steps=3, gamma=1.0, gamma_end=1e-3, eval_steps=2, patience=9, max_classes_per_step=2,
    templates=("a photo of a {}", "a drawing of the {}"),
)  # fmt: skip

words = st.text(st.characters(codec="utf-8"), max_size=12)
dtypes = st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8])


@st.composite
def tensors(draw):
    """Of any shape and of any bits."""
    shape, dtype = draw(st.lists(st.integers(0, 3), max_size=3)), draw(dtypes)
    size = math.prod(shape) * torch.empty(0, dtype=dtype).element_size()
    content = draw(st.binary(min_size=size, max_size=size))
    flat = torch.frombuffer(bytearray(content), dtype=dtype) if content else torch.empty(0, dtype=dtype)
    return flat.reshape(shape)


@st.composite
def trainings(draw):
    losses = draw(st.lists(words, unique=True, min_size=1, max_size=3))
    row = st.fixed_dictionaries(dict.fromkeys(losses, st.floats()))
    return TrainState(
        identity=draw(st.dictionaries(words, words, max_size=3)),
        history=tuple(draw(st.lists(row, max_size=5))),
        vectors=draw(st.dictionaries(words, tensors(), max_size=2)),
        moments=draw(
            st.dictionaries(st.integers(0, 12), st.dictionaries(words, tensors(), min_size=1, max_size=2), max_size=3)
        ),
        generators=tuple(draw(st.lists(tensors(), max_size=11))),
        batches=draw(st.dictionaries(words, st.lists(st.integers(0, 2**40), max_size=4), max_size=3)),
        best=(draw(st.floats()), draw(st.integers(0, 2**40))),
    )


def bits(value):
    """Equal only for what is the same to the bit and of the same kind."""
    if isinstance(value, torch.Tensor):
        return value.dtype, tuple(value.shape), value.reshape(-1).view(torch.uint8).numpy().tobytes()
    if isinstance(value, float):
        return "nan" if math.isnan(value) else struct.pack("d", value)
    if isinstance(value, dict):
        return {name: bits(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [bits(inner) for inner in value]
    if isinstance(value, TrainState):
        return bits(vars(value))
    return value


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("kept") / "new" / "training.safetensors"


@given(stored=trainings())
def test_what_is_read_is_what_was_written(path, stored):
    assert save_checkpoint(stored, path) == path
    assert bits(load_checkpoint(path)) == bits(stored)
    assert os.listdir(path.parent) == [path.name]


@pytest.fixture(scope="module")
def first(tiny_host, cache):
    return new_tokens(tiny_host, cache.classes, num_vectors=2, initializer_token="random", seed=3)


@pytest.fixture(scope="module")
def states(tiny_host, cache, first):
    """Of every step of a training, and its result."""
    kept = []
    result = train(tiny_host, cache, first, CONFIG, on_step=lambda info: kept.append(info.state))
    return [state() for state in kept], result


def test_a_training_goes_on_from_its_file_as_if_there_had_been_no_break(tiny_host, cache, first, states, tmp_path):
    kept, whole = states
    assert len(kept) == 6
    for state in kept:
        read = load_checkpoint(save_checkpoint(state, tmp_path / "training.safetensors"))
        rest = train(tiny_host, cache, first, CONFIG, resume=read)
        assert bits(dict(rest.history)) == bits(dict(whole.history))
        assert bits(dict(rest.tokens.vectors)) == bits(dict(whole.tokens.vectors))
        assert rest.tokens.training == whole.tokens.training


def test_a_state_outlasts_the_steps_after_it(tiny_host, cache, states):
    """Each was copied only after the training; whatever breaks a step off cannot reach into what was kept before."""
    kept, _ = states
    vectors = [bits(dict(state.vectors)) for state in kept]
    assert all(first != second for first, second in pairwise(vectors))
    assert [state.step for state in kept] == [1, 2, 3, 4, 5, 6]
    assert [float(state.moments[0]["step"]) for state in kept] == [1, 2, 3, 4, 5, 6]


@pytest.fixture(scope="module")
def content(states, tmp_path_factory):
    """The bytes of a real file."""
    return save_checkpoint(states[0][2], tmp_path_factory.mktemp("whole") / "training.safetensors").read_bytes()


def test_a_file_cut_short_is_refused_wherever_it_is_cut(content, path):
    lengths = {*range(0, 600), *range(600, len(content), 97), *range(len(content) - 300, len(content))}
    path.parent.mkdir(exist_ok=True)
    for length in sorted(lengths):
        path.write_bytes(content[:length])
        with pytest.raises(ResumeError, match=r"training\.safetensors (is|cannot)"):
            load_checkpoint(path)


def test_other_files_are_refused(tmp_path, tokens):
    with pytest.raises(ResumeError, match=r"no training .*nothing"):
        load_checkpoint(tmp_path / "nothing")
    with pytest.raises(ResumeError, match=r"cannot be read|no training"):
        load_checkpoint(tmp_path)
    with pytest.raises(ResumeError, match="is not a training checkpoint"):
        load_checkpoint(save_tokens(tokens, tmp_path / "tokens.safetensors"))
    save_file({"a": torch.ones(1)}, tmp_path / "foreign.safetensors")
    with pytest.raises(ResumeError, match="is not a training checkpoint"):
        load_checkpoint(tmp_path / "foreign.safetensors")
    (tmp_path / "text").write_text("once upon a time")
    with pytest.raises(ResumeError, match="is not a training, or is damaged"):
        load_checkpoint(tmp_path / "text")


@pytest.fixture
def rewritten(states, tmp_path):
    """A function: the path of a real file with other metadata or tensors."""

    def write(metadata=None, change=lambda tensors: {}):
        path = save_checkpoint(states[0][0], tmp_path / "training.safetensors")
        with safe_open(path, framework="pt") as file:
            values = file.metadata()
        tensors = load_file(path)
        described = {name: json.dumps(value) for name, value in (metadata or {}).items()}
        save_file({**tensors, **change(tensors)}, path, metadata={**values, **described})
        return path

    return write


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("format_version", 2, "update it"), ("format_version", float("nan"), "damaged"), ("format_version", "1", "damaged"),
        ("identity", [1], "damaged"), ("losses", ["loss"], "damaged"),
    ],
)  # fmt: skip
def test_a_newer_file_and_one_that_was_changed_are_refused(rewritten, name, value, message):
    with pytest.raises(ResumeError, match=message):
        load_checkpoint(rewritten({name: value}))


def test_steps_without_losses_are_refused_before_they_take_memory(rewritten):
    path = rewritten({"losses": []}, change=lambda tensors: {"history": torch.zeros(1000, 0, dtype=torch.float64)})
    with pytest.raises(ResumeError, match="no losses"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "changed",
    [
        lambda kept: kept[:, :, None], lambda kept: kept.float(), lambda kept: kept[:, :0].contiguous(),
        lambda kept: torch.zeros(3_000_000, kept.shape[1], dtype=torch.uint8),
    ],
)  # fmt: skip
def test_numbers_that_no_training_has_are_refused(rewritten, changed):
    with pytest.raises(ResumeError, match="damaged"):
        load_checkpoint(rewritten(change=lambda tensors: {"history": changed(tensors["history"])}))


def test_a_place_that_cannot_be_written_is_reported(states, tmp_path):
    (tmp_path / "file").write_text("here first")
    with pytest.raises(FileError, match="is not a folder or is not writable"):
        save_checkpoint(states[0][0], tmp_path / "file" / "training.safetensors")
