"""A file's claims are checked against limits before memory or time is spent."""

import os
import time
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file

from mcti_core.errors import ResumeError, TokenError
from mcti_core.files.limits import MAX_CLASSES, MAX_SET_BYTES, MAX_TEMPLATES, MAX_TRAINING_BYTES
from mcti_core.files.safe_load import format_of
from mcti_core.tokens.formats import read_embedding
from mcti_core.tokens.io import is_own_file, load_tokens
from mcti_core.tokens.names import safe_names
from mcti_core.tokens.token_set import TokenSet
from mcti_core.training.checkpoint import load_checkpoint

ONE = torch.zeros(1)


@pytest.mark.parametrize(
    "content",
    [
        {"emb_params": ONE.expand(5 * 10**8)},
        {"emb_params": ONE.expand(10**12)},
        {"emb_params": ONE.expand(1, 10**12)},
        {"emb_params": ONE.expand(75, 768)},
        {"emb_params": ONE.half().expand(768)},
        {"emb_params": torch.zeros(768).as_strided((75, 768), (0, 1))},
        {"emb_params": torch.zeros(800).as_strided((20, 768), (1, 1))},
        {"clip_l": ONE.expand(2, 768), "clip_g": ONE.expand(2, 1280)},
        {"string_to_param": {"*": ONE.expand(10**11)}},
        {"string_to_param": OrderedDict({"*": torch.nn.Parameter(ONE.expand(10**11))})},
        {"<cat>": ONE.expand(10**10)},
        ONE.expand(10**10),
    ],
)
def test_view_that_stores_fewer_numbers_than_it_shows_is_refused_at_once(content, tmp_path):
    torch.save(content, tmp_path / "x.pt")
    begun = time.process_time()
    with pytest.raises(TokenError, match=r"does not store as many|wide; supported are|room for"):
        read_embedding(tmp_path / "x.pt")
    assert time.process_time() - begun < 1


def test_part_of_a_larger_tensor_is_read(tmp_path):
    whole = torch.randn(9, 768)
    torch.save({"emb_params": whole[2:4]}, tmp_path / "x.pt")
    assert torch.equal(read_embedding(tmp_path / "x.pt").vectors["clip_l"], whole[2:4])


@pytest.mark.parametrize("read", [load_tokens, read_embedding])
def test_sparse_file_of_a_token_set_is_not_read(read, tmp_path):
    path = tmp_path / "x.safetensors"
    header = (
        b'{"__metadata__":{"format":"\\"mcti-token-set\\""},"clip_l":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}'
    )
    header %= (2**33, 2**33)
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 2**33)
    with pytest.raises(TokenError, match="MiB"):
        read(path)
    assert path.stat().st_size > MAX_SET_BYTES


def test_sparse_file_of_a_kept_training_is_not_read(tmp_path):
    with open(tmp_path / "x.safetensors", "wb") as file:
        file.truncate(MAX_TRAINING_BYTES + 1)
    with pytest.raises(ResumeError, match="larger than 4 GiB"):
        load_checkpoint(tmp_path / "x.safetensors")


def test_header_of_a_token_set_is_not_read_beyond_its_limit(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": ONE}, path, {"format": '"mcti-token-set"', "labels": "[" + "[]," * 6_000_000})
    with pytest.raises(TokenError, match="its header has"):
        load_tokens(path)
    assert format_of(path) is None


@pytest.mark.parametrize(
    ("classes", "templates", "message"),
    [
        (["x"] * (MAX_CLASSES + 1), ["{}"], "classes; a token set has at most 4,096"),
        (["x"] * 1_000_000, ["{}"], "classes; a token set has at most 4,096"),
        (["a", "b"], ["{}"] * (MAX_TEMPLATES + 1), "templates; a token set has at most 1,000"),
        (["a", "b"], ["{}"] * 200_000, "templates; a token set has at most 1,000"),
        (["a", "b" * 1001], ["{}"], "at most 1,000 characters"),
        (["a", "b"], ["{}" + "x" * 2000], "at most 2,000 characters"),
        (["x"] * MAX_CLASSES, ["{}"] * 100, "409,600 prompts"),
        (["a", 3], ["{}"], "got a int"),
        (["a" + "\u0f73" * 990], ["{}"], "more than 30 combining marks on one letter"),
        (["a", "b"], ["{}" + "\u0301\u0316" * 900], "more than 30 combining marks on one letter"),
        (
            ["a" + "\u0301\u0316" * 490 + f"{number}" for number in range(MAX_CLASSES)],
            ["{}"],
            "more than 30 combining marks on one letter",
        ),
    ],
)
def test_token_set_beyond_its_limits_is_refused_at_once(classes, templates, message):
    begun = time.process_time()
    with pytest.raises(TokenError, match=message):
        TokenSet(tuple(classes), {"clip_l": torch.zeros(len(classes), 1, 4)}, templates=tuple(templates))
    assert time.process_time() - begun < 1


def test_equal_labels_are_named_in_linear_time():
    begun = time.process_time()
    names = safe_names(["x"] * 20_000)
    assert time.process_time() - begun < 3
    assert len(set(names)) == 20_000
    assert names[:3] == ("x", "x-2", "x-3")
    assert safe_names(["x", "x-2", "x", "x"]) == ("x", "x-2", "x-3", "x-4")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_named_pipe_is_not_waited_for(suffix, tmp_path):
    path = tmp_path / f"x{suffix}"
    os.mkfifo(path)
    assert not is_own_file(path)
    for read in (load_tokens, read_embedding, load_checkpoint):
        with pytest.raises((TokenError, ResumeError), match="a named pipe, not a file"):
            read(path)


@pytest.mark.parametrize("number", [1e38, -2e6, float("inf"), float("nan")])
def test_vectors_beyond_what_learning_makes_are_refused(number, tmp_path):
    save_file({"emb_params": torch.full((1, 768), number)}, tmp_path / "x.safetensors")
    torch.save({"emb_params": torch.full((1, 768), number)}, tmp_path / "x.pt")
    for name in ("x.safetensors", "x.pt"):
        with pytest.raises(TokenError, match="contains numbers beyond 1,000,000 or not finite"):
            read_embedding(tmp_path / name)


@pytest.mark.parametrize("method", ["clip", "hybrid"])
def test_example_features_of_another_clip_space_are_a_sentence(tiny_host, method):
    from mcti_core.classifiers.calibration import calibrated_classifier
    from mcti_core.tokens.token_set import Support

    support = Support(torch.nn.functional.normalize(torch.randn(4, 7), dim=1), torch.tensor([0, 0, 1, 1]))
    tokens = TokenSet(("a", "b"), {"clip_l": torch.randn(2, 1, tiny_host.text["clip_l"].width)}, support=support)
    with pytest.raises(TokenError, match="example features are 7 wide"):
        calibrated_classifier(method, tiny_host, tokens)


def test_message_about_a_file_of_many_names_is_short(tmp_path):
    values = {"format": '"mcti-token-set"', "format_version": "1", "labels": '["a"]', "names": '["a"]'}
    values |= {"templates": '["{}"]'}
    values |= {"encoders": '["none"]', "pooling": '"eot"', "base_model": '""', "training": "{}"}
    save_file({f"{'y' * 60}{i}": ONE.clone() for i in range(1000)}, tmp_path / "x.safetensors", metadata=values)
    with pytest.raises(TokenError, match="contains no tensor 'none'") as refused:
        load_tokens(tmp_path / "x.safetensors")
    assert len(str(refused.value)) < 5000
