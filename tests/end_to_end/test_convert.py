"""``mcti convert``: order of options, incompatible sets and embeddings, unreadable files, and the docs' examples."""

import os
import re
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from mcti_core.files.output_lock import lock_output
from mcti_core.tokens.io import export_embedding, export_embeddings, import_embeddings, load_tokens, save_tokens
from mcti_core.tokens.token_set import TokenSet

from .command_line import run

ROOT = Path(__file__).parents[2]
DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def made(*labels, count=1, seed=0, encoders=(("clip_l", 768),), **others) -> TokenSet:
    generator = torch.Generator().manual_seed(seed)
    vectors = {name: torch.randn(len(labels), count, width, generator=generator) for name, width in encoders}
    return TokenSet(labels, vectors, **others)


SDXL = (("clip_l", 768), ("clip_g", 1280))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def to_set(inputs: str, *words: str) -> TokenSet:
    assert run(f"convert --format set --output new {inputs}", *words) == 0
    return load_tokens("new.safetensors")


def refused(capsys, inputs: str, *words: str) -> str:
    capsys.readouterr()
    assert run(f"convert --format set --output new {inputs}", *words) == 1
    assert not Path("new.safetensors").exists()
    return capsys.readouterr().err


def to_embeddings(inputs: str, out: str) -> int:
    return run(f"convert {inputs} --format embeddings --output {out}")


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        (["--rename", "ibis=my ibis", "--select", "heron", "my ibis"], ("heron", "my ibis")),
        (["--select", "ibis", "heron", "--rename", "ibis=heron", "heron=ibis"], ("heron", "ibis")),
        (["--select", "heron", "--labels", "grey one"], ("grey one",)),
        (["--labels", "a", "b", "c", "--select", "c", "a"], ("c", "a")),
        (["--rename", "ibis=x", "--rename", "x=y"], ("y", "heron", "stork")),
        (["--select", "stork", "--select", "ibis"], ("stork", "ibis")),
        (["--labels", "a", "b", "c", "--rename", "b=d", "--select", "d", "--labels", "e"], ("e",)),
    ],
)  # fmt: skip
def test_convert_options_act_in_the_order_written(folder, options, labels):
    birds = made("ibis", "heron", "stork")
    save_tokens(birds, "birds")
    assert to_set("birds.safetensors", *options).labels == labels


def test_convert_an_option_before_the_rename_knows_the_old_label_only(folder, capsys):
    save_tokens(made("ibis", "heron"), "birds")
    said = refused(capsys, "birds.safetensors --select", "my ibis", "--rename", "ibis=my ibis")
    assert "no class 'my ibis' here" in said
    said = refused(capsys, "birds.safetensors --rename", "ibis=my ibis", "--select", "ibis")
    assert "no class 'ibis' here" in said


class TestSharedLabels:
    @pytest.fixture
    def two(self, folder):
        Path("elsewhere").mkdir()
        one, other = made("ibis", "heron"), made("Ibis", "stork", seed=1)
        save_tokens(one, "a"), save_tokens(other, "b"), save_tokens(other, Path("elsewhere") / "a")
        return one.vectors["clip_l"], other.vectors["clip_l"]

    def test_convert_renaming_one_of_them_merges_the_sets(self, two):
        merged = to_set("a.safetensors b.safetensors --rename", "b.safetensors:ibis=white ibis")
        assert merged.labels == ("ibis", "heron", "white ibis", "stork")
        assert torch.equal(merged.vectors["clip_l"], torch.cat(two))

    def test_convert_the_error_is_the_command_that_works(self, two, capsys):
        for files in ("a.safetensors b.safetensors", "a.safetensors elsewhere/a.safetensors"):
            advice = re.search(r"--rename '(.*)'=NEW", refused(capsys, files))
            assert to_set(f"{files} --rename", f"{advice[1]}=third").labels == ("ibis", "heron", "third", "stork")
            Path("new.safetensors").unlink()

    def test_convert_a_name_of_two_classes_is_asked_back(self, two, capsys):
        said = refused(capsys, "a.safetensors elsewhere/a.safetensors --select IBIS")
        assert "2 classes 'IBIS'; say which: 'a.safetensors:ibis' and 'elsewhere/a.safetensors:Ibis'" in said
        assert to_set("a.safetensors b.safetensors --select ibis").labels == ("ibis",)  # to the letter

    def test_convert_picking_one_leaves_the_other_out(self, two):
        merged = to_set("a.safetensors b.safetensors --select b.safetensors:ibis heron")
        assert merged.labels == ("Ibis", "heron")

    def test_convert_a_rename_that_makes_twins_is_refused(self, two, capsys):
        said = refused(capsys, "a.safetensors --rename heron=ibis")
        assert "share a token name ('ibis': 'a.safetensors:ibis' and 'a.safetensors:heron')" in said

    def test_convert_a_set_given_twice_is_reported(self, two, capsys):
        assert "a.safetensors is given twice; give it once" in refused(capsys, "a.safetensors a.safetensors")


@pytest.mark.parametrize(
    ("labels", "renaming", "after"),
    [
        (("a=b", "c"), "a=b=d", ("d", "c")), (("a", "a=b"), "a=b=c", ("a", "c")), (("e", "c"), "e=mc=2", ("mc=2", "c")),
        (("x = y", "c"), "x = y=z=1", ("z=1", "c")), (("=", "c"), "==plain", ("plain", "c")), (("f:g", "c"), "f:g=h", ("h", "c")),
    ],
)  # fmt: skip
def test_convert_labels_with_signs_are_renamed(folder, labels, renaming, after):
    save_tokens(made(*labels), "set")
    assert to_set("set.safetensors --rename", renaming).labels == after


FLUX = (("clip_l", 768), ("t5xxl", 4096))


def test_convert_makes_onetrainers_flux_embeddings_comfyuis(folder):
    tokens = made("moss", "fern", count=2, encoders=FLUX)
    Path("theirs").mkdir()
    for index, label in enumerate(tokens.labels):
        clip, t5 = (v[index].clone() for v in tokens.vectors.values())
        save_file({"clip_l": clip, "t5": t5}, f"theirs/{label}.safetensors")
    ours = to_set("theirs --select moss fern")
    save_file({"clip_l": torch.ones(2, 768), "t5": torch.ones(2, 4096)}, "ivy.safetensors")
    assert run("convert new.safetensors ivy.safetensors --format set --output all") == 0
    assert load_tokens("all.safetensors").labels == ("moss", "fern", "ivy")
    assert to_embeddings("new.safetensors", "back") == 0
    assert to_embeddings("back --layout onetrainer", "again") == 0
    for encoder, key in (("clip_l", "clip_l"), ("t5xxl", "t5")):
        assert torch.equal(ours.vectors[encoder], tokens.vectors[encoder])
        for index, label in enumerate(tokens.labels):
            assert torch.equal(load_file(f"back/{label}.safetensors")[encoder], tokens.vectors[encoder][index])
            assert torch.equal(load_file(f"again/{label}.safetensors")[key], tokens.vectors[encoder][index])


class TestFolders:
    @pytest.fixture
    def mixed(self, folder):
        """Three SD 1.x tokens of two lengths, two of SDXL, one of SD 2.x, a set's embedding, and what cannot be read."""
        Path("dl").mkdir()
        small, large = made("moss", "fern"), made("reed", "ivy", count=2, seed=1, encoders=SDXL)
        torch.save({"string_to_param": {"*": small.vectors["clip_l"][0]}, "name": "m"}, "dl/moss.pt")
        torch.save({"<fern>": small.vectors["clip_l"][1]}, "dl/fern.bin")
        save_file({"emb_params": torch.ones(5, 768)}, "dl/oak.safetensors")
        for index, label in enumerate(large.labels):
            save_file({name: v[index].clone() for name, v in large.vectors.items()}, f"dl/{label}.safetensors")
        save_file({"emb_params": torch.ones(1, 1024)}, "dl/ash.safetensors")
        export_embedding(made("elm", seed=3, pooling="token"), 0, "dl")
        return small, large

    def test_convert_a_mixed_folder_makes_a_set_of_each_kind(self, mixed, capsys):
        assert run("convert dl --format set --output mine.safetensors") == 0
        written = capsys.readouterr().out.split()
        expected = {
            "mine-clip_h-1": ("ash",),
            "mine-clip_l-1": ("elm",),
            "mine-clip_l-1-2": ("fern", "moss"),
            "mine-clip_g-clip_l-2": ("ivy", "reed"),
            "mine-clip_l-5": ("oak",),
        }
        assert {Path(name).stem: load_tokens(name).labels for name in written} == expected
        small = load_tokens("mine-clip_l-1-2.safetensors")
        assert torch.equal(small.vectors["clip_l"], mixed[0].vectors["clip_l"][[1, 0]])

    def test_convert_a_mixed_folder_to_embeddings_writes_all(self, mixed, capsys):
        assert to_embeddings("dl", "out") == 0
        assert {path.stem for path in Path("out").iterdir()} == {"ash", "elm", "fern", "ivy", "moss", "oak", "reed"}
        assert to_set("out/reed.safetensors out/ivy.safetensors").vectors_per_token == 2

    def test_convert_a_set_with_embeddings_that_do_not_go_with_it_is_refused(self, mixed, capsys):
        save_tokens(made("yew", count=2), "own")
        assert "cannot be in one set: 'yew' has 2 vectors" in refused(capsys, "own.safetensors dl")

    def test_convert_bad_files_stop_no_other_and_are_reported_at_the_end(self, mixed, capsys):
        Path("dl/html.safetensors").write_text("<html>")
        Path("dl/broken.bin").write_bytes(b"PK\x03\x04 and no more")
        Path("dl/code.pt").write_bytes(b"\x80\x02c")
        save_file({"emb_params": torch.full((1, 768), torch.nan)}, "dl/nan.safetensors")
        Path("dl/readme.md").write_text("x")
        Path("dl/deeper").mkdir()
        assert to_embeddings("dl", "out") == 1
        told = capsys.readouterr()
        assert len(told.out.splitlines()) == len(list(Path("out").iterdir())) == 7
        lines = told.err.splitlines()
        named = [line.split(":")[1].strip() for line in lines[-5:]]
        assert named == ["dl", "dl/broken.bin", "dl/code.pt", "dl/html.safetensors", "dl/nan.safetensors"]
        assert "dl: 1 .md, 1 folder not read" in lines[-5]

    def test_convert_other_files_in_a_folder_are_no_failure(self, mixed, capsys):
        Path("dl/readme.md").write_text("x")
        Path("dl/.DS_Store").write_text("x")
        assert to_embeddings("dl", "out") == 0
        assert "1 .md not read" in capsys.readouterr().err

    def test_convert_bad_files_are_reported_where_the_rest_is_refused(self, mixed, capsys):
        Path("dl/broken.pt").write_bytes(b"x")
        said = refused(capsys, "dl --labels a b")
        assert "7 classes" in said
        assert "broken.pt" in said

    def test_convert_nothing_that_can_be_read_writes_nothing(self, folder, capsys):
        Path("empty").mkdir()
        Path("other").mkdir()
        Path("other/x.ckpt").write_text("x")
        said = refused(capsys, "empty other gone.pt")
        assert said.count("mcti: ") == 3
        assert "other contains no .safetensors, .pt, .bin or image with an embedding; it contains 1 .ckpt" in said

    def test_convert_errors_of_the_system_stop_no_other(self, mixed, monkeypatch, capsys):
        def failing(path):
            if path.stem == "ash":
                raise PermissionError(13, "Permission denied")
            return False

        monkeypatch.setattr("mcti_core.tokens.conversion.is_token_set", failing)
        assert to_embeddings("dl", "out") == 1
        assert "ash.safetensors: cannot be read (Permission denied)" in capsys.readouterr().err
        assert len(list(Path("out").iterdir())) == 6

    def test_convert_a_copy_of_an_embedding_is_left_out_with_a_word(self, mixed, capsys):
        torch.save({"<moss>": mixed[0].vectors["clip_l"][0]}, "dl/learned_embeds.bin")
        assert to_embeddings("dl", "out") == 0
        assert "dl/moss.pt: left out, the same embedding as in dl/learned_embeds.bin" in capsys.readouterr().err


def test_convert_a_folder_with_a_set_and_other_embeddings_makes_one_set(folder):
    """As ``mcti train`` leaves them, and embeddings of the same kind beside."""
    birds = made("ibis", "heron")
    save_tokens(birds, "mine/set")
    export_embeddings(birds, "mine")
    export_embedding(made("stork", seed=1), 0, "mine")
    assert to_set("mine").labels in (("heron", "ibis", "stork"), ("ibis", "heron", "stork"))


class TestNames:
    def test_convert_words_of_clip_are_reported_with_a_prefix_that_helps(self, folder, capsys):
        save_tokens(made("zebra", "lamp", "my cat", "3", "qzxv"), "set")
        assert to_embeddings("set.safetensors", "out") == 0
        (line,) = capsys.readouterr().err.splitlines()
        assert "zebra, lamp, 3: words of CLIP's vocabulary" in line
        assert "--prefix my- " in line
        assert to_embeddings("set.safetensors --prefix my-", "own") == 0
        assert not capsys.readouterr().err
        assert {path.stem for path in Path("own").iterdir()} == {"my-zebra", "my-lamp", "my-my-cat", "my-3", "my-qzxv"}
        assert to_set("own").labels == ("zebra", "lamp", "my cat", "3", "qzxv")

    @pytest.mark.parametrize("prefix", ["../", "a b", ".", "x" * 200, "\n"])
    def test_convert_a_prefix_that_makes_no_safe_name_is_refused(self, folder, prefix, capsys):
        save_tokens(made("ibis"), "set")
        assert "the token name" in refused(capsys, "set.safetensors --prefix", prefix)

    @pytest.mark.parametrize(("layout", "told"), [("comfyui", False), ("diffusers", True), ("onetrainer", True)])
    def test_convert_says_which_layout_invokeai_does_not_recognise(self, folder, layout, told, capsys):
        save_tokens(made("my ibis"), "set")
        assert to_embeddings(f"set.safetensors --layout {layout}", "out") == 0
        assert ("InvokeAI" in capsys.readouterr().err) == told
        save_tokens(made("my ibis", encoders=SDXL), "large")
        assert to_embeddings(f"large.safetensors --layout {layout}", "large") == 0
        assert "InvokeAI" not in capsys.readouterr().err


@pytest.mark.parametrize(("to", "out"), [("set", "new.safetensors"), ("embeddings", "new")])
def test_convert_results_are_replaced_only_when_asked(folder, to, out, capsys):
    """Also where it is the set that is converted, or where only one of the embeddings already exists."""
    save_tokens(made("ibis"), out if to == "set" else "new/set")
    if to == "embeddings":
        export_embedding(made("ibis"), 0, "new")
    save_tokens(made("heron", "ibis", seed=1), "set")
    before = {path: path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))}
    line = f"convert set.safetensors --format {to} --output {out}"
    assert run(line) == 1
    assert "already exists; replace it with --overwrite" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in sorted(folder.rglob("*.safetensors"))} == before
    assert run(f"{line} --overwrite") == 0
    written = load_tokens(out) if to == "set" else import_embeddings(["new/heron.safetensors", "new/ibis.safetensors"])
    assert written.labels == ("heron", "ibis")
    assert torch.equal(written.vectors["clip_l"], made("heron", "ibis", seed=1).vectors["clip_l"])


@pytest.mark.parametrize(("to", "out"), [("set", "held/new"), ("embeddings", "held")])
def test_convert_into_the_folder_of_a_living_run_is_refused(folder, to, out, capsys):
    """The run would replace what was converted when it ends."""
    save_tokens(made("ibis"), "set")
    line = f"convert set.safetensors --format {to} --output {out}"
    with lock_output("held", folder=True):
        assert run(line) == 1
        assert "another run" in capsys.readouterr().err
    assert run(line) == 0


def test_convert_where_nothing_can_be_written_writes_nothing(folder, capsys, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    save_tokens(made("ibis", "heron"), "set")
    monkeypatch.setattr("mcti_core.files.writing.open", full, raising=False)
    assert to_embeddings("set.safetensors", "place/in") == 1
    assert "in cannot be written to (No space left on device)" in capsys.readouterr().err
    assert sorted(os.listdir()) == ["set.safetensors"]


def examples() -> list[str]:
    """Every ``mcti convert`` in the docs' shell blocks."""
    pages = [path.read_text(encoding="utf-8") for path in DOCS]
    blocks = [block for page in pages for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL)]
    return [line for block in blocks for line in block.splitlines() if line.startswith("mcti convert")]


def test_docs_have_examples_of_convert():
    assert len(examples()) >= 5


@pytest.mark.parametrize("line", examples())
def test_convert_examples_in_docs_run(folder, line, monkeypatch):
    """With the files that they name: a trained set, sets of which two have a class in common, foreign embeddings."""
    monkeypatch.setenv("HOME", str(folder / "home"))
    monkeypatch.setenv("USERPROFILE", str(folder / "home"))
    save_tokens(made("my cat", "my dog"), "learned/tokens")
    save_tokens(made("cat", "cup"), "a")
    save_tokens(made("dog", "bowl", seed=1), "b")
    save_tokens(made("cat", "fox", seed=2), "c")
    Path("old").mkdir(), Path("downloads").mkdir()
    torch.save({"string_to_param": {"*": torch.ones(1, 768)}, "name": "x"}, "old/style.pt")
    save_file({"emb_params": torch.zeros(1, 768)}, "downloads/mood.safetensors")
    assert run("", *map(os.path.expanduser, shlex.split(line, comments=True)[1:])) == 0
