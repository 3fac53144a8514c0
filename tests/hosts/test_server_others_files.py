"""Foreign files in a running server's folders: beside saved files, behind links, and among stored trainings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mcti_core.tokens.io import is_own_file, save_tokens
from mcti_core.tokens.token_set import TokenSet
from mcti_core.training.checkpoint import is_training

from .server import Graph, Server, node
from .test_server_files import files, saving
from .test_server_training import cancel, training

pytestmark = pytest.mark.host


def told(server: Server, what: Graph) -> str:
    run = server.run(what)
    assert not run.succeeded
    assert run.error["exception_type"] == "ValueError", run.error
    return str(run.error["exception_message"])


@pytest.mark.parametrize("theirs", ["cat.pt", "CAT.safetensors", "Big-Dog.bin", "deep/cat.pt"])
def test_embedding_that_would_shadow_a_user_s_own_is_not_saved(server: Server, theirs: str) -> None:
    path = server.base / "models" / "embeddings" / theirs
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"emb_params": torch.ones(1, 768)}, path)
    before = files(server)
    assert f"{path.name} was not written by MC-TI" in told(server, saving(server, "shadow"))
    assert files(server) == before
    path.unlink()


@pytest.mark.parametrize("place", ["embeddings/ln", "mcti_tokens/ln", "embeddings/a/ln"])
def test_link_out_of_the_host_s_folder_is_not_followed(server: Server, tmp_path: Path, place: str) -> None:
    link = server.base / "models" / place
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(tmp_path, target_is_directory=True)
    inside = place.split("/", 1)[1]
    what = saving(server, f"{inside}/x", folder=inside)
    assert "where a link leads" in told(server, what)
    assert not list(tmp_path.iterdir())
    link.unlink()


def test_set_is_not_written_where_an_embedding_is_in_the_way(server: Server) -> None:
    path = server.base / "models" / "embeddings" / "way" / "cat.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"theirs")
    told(server, saving(server, "never", folder="way"))
    assert not (server.base / "models" / "mcti_tokens" / "never.safetensors").exists()


def test_kept_trainings_and_tokens_leave_files_of_others(server: Server) -> None:
    kept = server.base / "user" / "mcti_unfinished"
    kept.mkdir(parents=True, exist_ok=True)
    for number in range(12):
        (kept / f"{number:032x}.safetensors").write_bytes(b"theirs")
        os.utime(kept / f"{number:032x}.safetensors", (number, number))
    (kept / "mine.safetensors").write_bytes(b"theirs")
    cancel(server, training(seed=1), 3)
    (tokens,) = (server.base / "models" / "mcti_tokens").glob("unfinished-*")
    tokens.write_bytes(b"theirs")
    cancel(server, training(seed=1), 3)
    others = [path for path in kept.iterdir() if path.read_bytes() == b"theirs"]
    assert len(others) == 13
    assert tokens.read_bytes() == b"theirs"
    (second,) = (server.base / "models" / "mcti_tokens").glob("2-unfinished-*")
    assert is_own_file(second)


def test_kept_training_with_wrong_content_is_set_aside(server: Server) -> None:
    kept = server.base / "user" / "mcti_unfinished"
    before = set(kept.glob("*")) if kept.is_dir() else set()
    cancel(server, training(seed=3), 3)
    (path,) = [each for each in set(kept.glob("*.safetensors")) - before if is_training(each)]
    with safe_open(path, framework="pt") as file:
        values, tensors = file.metadata(), {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    tensors["vectors.clip_l"] = tensors["vectors.clip_l"][:2].clone()
    save_file(tensors, path, values)
    cancel(server, training(seed=3), 3)
    assert path.with_name(f"{path.name}.unusable").exists()
    assert is_training(path)
    assert "its content does not fit" in server.log()


def test_kept_trainings_are_not_kept_where_a_link_leads_out(server: Server, tmp_path: Path) -> None:
    kept = server.base / "user" / "mcti_unfinished"
    kept.rename(kept.with_name("put away"))
    kept.symlink_to(tmp_path, target_is_directory=True)
    assert "where a link leads" in told(server, training(seed=4))
    assert not list(tmp_path.iterdir())
    kept.unlink()
    kept.with_name("put away").rename(kept)


def test_set_with_an_unsafe_name_is_not_loaded(server: Server) -> None:
    tokens = TokenSet(("a", "b"), {"clip_l": torch.ones(2, 1, 96)})
    object.__setattr__(tokens, "names", ("../../../escaped", "b"))
    save_tokens(tokens, server.base / "models" / "mcti_tokens" / "evil")
    what = {
        "1": node("MCTI_Pocket", shots=5, seed=0),
        "2": node("MCTI_LoadTokens", file="evil.safetensors", clip=["1", 1]),
    }
    assert "token name" in told(server, {**what, "3": node("PreviewAny", source=["2", 2])})


@pytest.mark.parametrize(
    "content",
    [
        "# é\n{}\n".encode("latin-1"), b"\xff\xfe" + "{}\r\n".encode("utf-16-le"), b"\xef\xbb\xbf{}\n", b'"{}"\n', b"  '{}'  \n", b"x" * 5000 + b"\n{}\n",
        b"\x00\x00\n{}\n", b"relative\n{}\n", b"~nobody-of-this-name/x\n{}\n", b"{}",
        "“{}”\n".encode(), b"file://{}\n",
    ],
)  # fmt: skip
def test_settings_file_in_any_encoding_opens_its_folders_and_takes_no_node_away(
    server: Server, tmp_path: Path, content: bytes
) -> None:
    from .test_server import choices, write_classes

    write_classes(tmp_path / "photos")
    place = str(tmp_path / "photos")
    wide = content.startswith(b"\xff\xfe")
    opened = server.base / "user" / "mcti_folders.txt"
    opened.write_bytes(
        content.replace("{}".encode("utf-16-le" if wide else "ascii"), place.encode("utf-16-le" if wide else "ascii"))
    )
    assert place in choices(server)
    assert len([kind for kind in server.get("/object_info") if kind.startswith("MCTI_")]) == 11


@pytest.mark.parametrize("what", ["folder", "unreadable", "large", "pipe", "binary"])
def test_settings_file_that_cannot_be_used_opens_nothing(server: Server, what: str) -> None:
    from .test_server import choices

    opened = server.base / "user" / "mcti_folders.txt"
    opened.unlink(missing_ok=True)
    if what == "folder":
        opened.mkdir()
    elif what == "pipe":
        os.mkfifo(opened)
    else:
        opened.write_bytes({"unreadable": b"/\n", "large": b"/\n" * 2**20, "binary": bytes(range(256))}[what])
        opened.chmod(0 if what == "unreadable" else 0o600)
    assert not [name for name in choices(server) if name.startswith("/")] or os.geteuid() == 0
    assert len([kind for kind in server.get("/object_info") if kind.startswith("MCTI_")]) == 11
    opened.rmdir() if what == "folder" else opened.unlink()
