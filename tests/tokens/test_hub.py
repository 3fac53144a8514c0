"""A set's folder and model card, and the same on the Hub, up to the request."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mcti_core.errors import ConfigError, FileError, TokenError
from mcti_core.tokens.io import import_embeddings, load_tokens
from mcti_core.tokens.model_card import model_card
from mcti_core.tokens.token_set import Support, TokenSet


@pytest.fixture
def small():
    support = Support(torch.eye(4)[:3], torch.tensor([0, 0, 1]))
    return TokenSet(("my cat", "dog"), {"clip_l": torch.ones(2, 1, 8)}, training={"steps": 3}, support=support)


def header_of(card):
    """The part that Hugging Face reads, by its own reader."""
    from huggingface_hub import ModelCard

    return ModelCard(card).data


def test_folder_reads_back_and_is_read_by_other_programs(small, tmp_path):
    assert small.save_pretrained(tmp_path / "set", license="cc-by-4.0") == str(tmp_path / "set" / "tokens.safetensors")
    again = TokenSet.from_pretrained(tmp_path / "set")
    assert (again.labels, again.training) == (small.labels, small.training)
    assert torch.equal(again.vectors["clip_l"], small.vectors["clip_l"])
    embeddings = sorted((tmp_path / "set" / "embeddings").iterdir())
    assert import_embeddings(embeddings).labels == small.labels
    small.save_pretrained(tmp_path / "set")  # its own files are replaced
    (tmp_path / "set" / "README.md").write_text("mine")
    with pytest.raises(FileError, match=r"README\.md"):
        small.save_pretrained(tmp_path / "set")


def test_card_says_what_is_in_the_set_and_how_it_was_made(small):
    card = model_card(small, {"torch": "2.13"}, license="cc-by-4.0", figures={"loss": "0.5"})
    data = header_of(card)
    assert (data.license, data.pipeline_tag, data.library_name) == ("cc-by-4.0", "text-to-image", "mcti")
    assert "textual-inversion" in data.tags
    assert "| my cat | `my-cat` | 2 |\n| dog | `dog` | 1 |\n" in card
    settings = json.loads(re.search(r"```json\n(.*?)\n```", card, re.S)[1])
    assert settings["steps"] == 3
    assert settings["templates"] == list(small.templates)
    assert settings["vectors"] == {"clip_l": [1, 8]}
    for part in ("- loss: 0.5\n", "![Loss at each step](loss.png)", "torch 2\\.13", "embedding:my-cat"):
        assert part in card
    assert "loss.png" not in model_card(small, {})
    with pytest.raises(TokenError, match="no identifier"):
        model_card(small, {}, license="mit\ntags: x")


def test_card_of_hostile_texts_keeps_its_lines_and_has_no_links(small):
    evil = "x|y\n---\nlicense: mit\n![a](http://b/c.png) <img src=z> `q` \x1b[2J\u202e"
    hostile = replace(small, labels=(evil, "dog"), names=(), base_model=evil, training={"a": evil + "\n```\n# b"})
    card, plain = model_card(hostile, {"torch": evil}), model_card(small, {"torch": "1"})
    assert header_of(card).to_dict() == header_of(plain).to_dict()
    assert card.isprintable() or all(line.isprintable() for line in card.splitlines())
    outside = re.sub(r"^```.*?^```", "", card, flags=re.M | re.S)
    assert re.findall(r"(?<!\\)!\[|(?<!\\)<|http://", outside) == []
    assert [line for line in outside.splitlines() if line.startswith("#")] == [
        line for line in re.sub(r"^```.*?^```", "", plain, flags=re.M | re.S).splitlines() if line.startswith("#")
    ]
    cells = next(line for line in card.splitlines() if line.startswith("| x"))
    assert len(re.findall(r"(?<!\\)\|", cells)) == 4


@pytest.fixture
def hub(monkeypatch):
    """What is asked of the Hub, instead of asking it."""
    from huggingface_hub import HfApi

    asked = []

    def create_repo(self, **options):
        asked.append(("create", self.token, options))
        return SimpleNamespace(repo_id=f"me/{options['repo_id']}")

    def upload_folder(self, **options):
        folder = Path(options.pop("folder_path"))
        files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        asked.append(("upload", files, options))
        return "https://huggingface.co/me/things/commit/1"

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    return asked


def test_push_asks_the_hub_for_one_commit_of_the_folder(small, hub, tmp_path):
    address = small.push_to_hub("things", private=True, token="secret", branch="b", create_pr=True, license="mit")
    assert address.endswith("/commit/1")
    assert small.save_pretrained(tmp_path / "others", push_to_hub=True, private=False) == address
    (_, token, created), (_, files, options), (_, _, named), _ = hub
    assert named == {"repo_id": "others", "private": False, "exist_ok": True}
    assert (token, created) == ("secret", {"repo_id": "things", "private": True, "exist_ok": True})
    assert sorted(files) == ["README.md", "embeddings/dog.safetensors", "embeddings/my-cat.safetensors", "tokens.safetensors"]  # fmt: skip
    assert options == {"repo_id": "me/things", "commit_message": "Push tokens using huggingface_hub.", "revision": "b", "create_pr": True}  # fmt: skip
    assert header_of(files["README.md"].decode()).license == "mit"
    (tmp_path / "t.safetensors").write_bytes(files["tokens.safetensors"])
    assert load_tokens(tmp_path / "t.safetensors").labels == small.labels


def cached(cache, content):
    """A repository in the cache of huggingface_hub, as a download leaves it."""
    place = cache / "models--me--things"
    for folder in ("refs", "blobs", "snapshots/abc"):
        (place / folder).mkdir(parents=True)
    (place / "refs" / "main").write_text("abc")
    (place / "blobs" / "1").write_bytes(content)
    (place / "snapshots" / "abc" / "tokens.safetensors").symlink_to(place / "blobs" / "1")


def test_download_is_read_with_the_checks_of_a_file(small, tmp_path):
    small.save_pretrained(tmp_path / "set")
    content = (tmp_path / "set" / "tokens.safetensors").read_bytes()
    cached(tmp_path / "cache", content)
    read = TokenSet.from_pretrained("me/things", cache_dir=tmp_path / "cache", local_files_only=True)
    assert read.labels == small.labels
    cached(tmp_path / "cut", content[:-1])
    with pytest.raises(TokenError, match="truncated or damaged"):
        TokenSet.from_pretrained("me/things", cache_dir=tmp_path / "cut", local_files_only=True)
    for name in ("me/others", "no/such/name", "x" * 5000, "x/" * 3000, "\0", "\ud800"):
        with pytest.raises(TokenError, match=f"no folder {name[:200]}.*, and no token set") as told:
            TokenSet.from_pretrained(name, cache_dir=tmp_path / "cache", local_files_only=True)
        assert len(str(told.value)) < 1000


def test_without_the_package_a_folder_is_still_read(small, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    small.save_pretrained(tmp_path / "set")
    assert TokenSet.from_pretrained(str(tmp_path / "set")).labels == small.labels
    for call in (lambda: TokenSet.from_pretrained("me/things"), lambda: small.push_to_hub("things")):
        with pytest.raises(ConfigError, match="huggingface_hub; install it"):
            call()
