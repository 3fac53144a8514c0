"""Opening a foreign file never blocks, whatever it is or becomes."""

import os
import shutil
import signal
import sys
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from mcti_core.data.dataset import FewShotDataset
from mcti_core.data.image_stream import find_image_paths
from mcti_core.errors import MCTIError
from mcti_core.files.provenance import is_marked
from mcti_core.files.regular import name_of, open_regular
from mcti_core.files.safe_load import format_of, header_of, is_safetensors, read_safetensors, read_torch
from mcti_core.hosts.diffusers.clip_space import load_clip_space
from mcti_core.hosts.diffusers.host import load_host
from mcti_core.hosts.diffusers.model_folders import read_settings
from mcti_core.images.reading import load_square
from mcti_core.tokens.embedding_cards import has_card, read_card
from mcti_core.tokens.io import (
    export_embeddings,
    import_embedding,
    import_embeddings,
    load_tokens,
    refuse_foreign_tokens,
    save_tokens,
)
from mcti_core.tokens.token_set import TokenSet
from mcti_core.training.checkpoint import load_checkpoint

READERS = (format_of, is_marked, is_safetensors, read_safetensors, read_torch, read_card, has_card, load_tokens, import_embedding, load_checkpoint, read_settings)  # fmt: skip
SUFFIXES = {read_torch: ".pt", read_card: ".png", has_card: ".png", is_marked: ".png"}
_swaps: dict[str, int] = {}
"""Path -> how often it is still opened as it is, before it becomes a pipe."""


def _swap(event, arguments):
    if event == "open" and _swaps and str(arguments[0]) in _swaps:
        path = str(arguments[0])
        _swaps[path] -= 1
        if _swaps[path] < 0:
            del _swaps[path]
            os.unlink(path)
            os.mkfifo(path)


@pytest.fixture(scope="module", autouse=True)
def hook():
    sys.addaudithook(_swap)  # of which Python cannot be rid again


@contextmanager
def no_waiting():
    def late(number, frame):
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, 3)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("opened", [0, 1, 2])
def test_readers_of_a_file_that_becomes_a_pipe_do_not_wait(reader, opened, tmp_path):
    path = tmp_path / f"x{SUFFIXES.get(reader, '.safetensors')}"
    save_file({"emb_params": torch.ones(1, 8)}, path)
    if path.suffix == ".png":
        Image.new("RGB", (8, 8)).save(path)
    elif path.suffix == ".pt":
        torch.save({"x": torch.ones(1, 8)}, path)
    _swaps[str(path)] = opened
    with no_waiting(), suppress(MCTIError):
        reader(path)
    _swaps.clear()


@pytest.mark.skipif(not os.access("/proc/kmsg", os.R_OK), reason="/proc/kmsg is for root")
@pytest.mark.parametrize("reader", READERS)
def test_readers_of_a_link_to_the_kernels_messages_do_not_wait(reader, tmp_path):
    path = tmp_path / f"x{SUFFIXES.get(reader, '.safetensors')}"
    path.symlink_to("/proc/kmsg")
    with no_waiting(), suppress(MCTIError):
        assert not reader(path)


def test_name_of_an_open_file_is_that_file_though_another_has_its_path(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"first")
    with open_regular(path) as file:
        shutil.move(path, tmp_path / "y")
        path.write_bytes(b"second")
        if os.path.exists("/proc/self/fd"):
            with open(name_of(file, path), "rb") as again:
                assert again.read() == b"first"
        assert file.read() == b"first"


@pytest.mark.parametrize(("kind", "reason"), [("folder", "it is a folder"), ("pipe", "it is a named pipe"), ("device", "it is a device")])  # fmt: skip
def test_open_regular_says_what_is_no_file(kind, reason, tmp_path):
    path = tmp_path / "x"
    {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "device": lambda: path.symlink_to("/dev/null")}[kind]()
    with pytest.raises(OSError, match=reason):
        open_regular(path)


@pytest.mark.parametrize("path", ["a\0b", "a\0/b.safetensors", "a\0.pt", "a\0.png", "\ud800", "x" * 5000])
def test_path_that_no_system_takes_is_a_sentence_everywhere(path, tmp_path):
    tokens, path = TokenSet(("a", "b"), {"clip_l": torch.ones(2, 1, 4)}), f"{tmp_path}/{path}"
    for use in (
        load_tokens,
        import_embedding,
        load_checkpoint,
        partial(load_square, size=64),
        load_host,
        FewShotDataset.from_folder,
        partial(save_tokens, tokens),
        partial(export_embeddings, tokens),
        lambda path: import_embeddings([path]),
        lambda path: find_image_paths([path]),
        lambda path: load_clip_space(path, {}),
        lambda path: refuse_foreign_tokens([Path(path)], sets=True),
    ):
        with pytest.raises(MCTIError):
            use(path)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not os.path.exists("/proc/kmsg"), reason="this system has no /proc/kmsg")
def test_link_to_what_is_not_there_yet_has_no_header(tmp_path):
    (tmp_path / "x.safetensors").symlink_to("/proc/kmsg")
    assert header_of(tmp_path / "x.safetensors") == {}
