"""Folders that cannot be read, or disappear meanwhile, give one-sentence errors."""

import contextlib
import os

import pytest
from PIL import Image

from mcti_core.data.dataset import FewShotDataset
from mcti_core.data.example_files import find_class_folders
from mcti_core.data.image_stream import find_image_paths
from mcti_core.errors import ExamplesError, MCTIError
from mcti_core.files.provenance import write_png
from mcti_core.tokens.io import load_tokens


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="this system has no other users")
def test_paths_inside_a_folder_that_may_not_be_read_are_answered(tmp_path):
    (tmp_path / "locked" / "a").mkdir(parents=True)
    (tmp_path / "locked").chmod(0)
    user = os.geteuid()
    try:
        if user == 0:  # who may read everything
            os.seteuid(65534)
        for read in (
            find_class_folders,
            lambda path: find_image_paths([path]),
            load_tokens,
            lambda path: FewShotDataset.from_folder(path, min_classes=1),
        ):
            with pytest.raises(MCTIError):
                read(tmp_path / "locked" / "a")
    finally:
        os.seteuid(user)
        (tmp_path / "locked").chmod(0o755)


def test_folder_that_vanishes_while_it_is_listed_is_answered(tmp_path, monkeypatch):
    write_png(Image.new("RGB", (4, 4)), tmp_path / "a" / "loss.png")
    real = os.scandir

    @contextlib.contextmanager
    def vanishing(folder):
        with real(folder) as entries:
            yield entries
        if str(folder).endswith("a"):
            os.unlink(os.path.join(folder, "loss.png"))
            os.rmdir(folder)

    monkeypatch.setattr(os, "scandir", vanishing)
    assert find_class_folders(tmp_path)[0] == []
    monkeypatch.undo()
    (tmp_path / "a").mkdir()
    isdir = os.path.isdir
    monkeypatch.setattr(os.path, "isdir", lambda path: isdir(path) and (os.rmdir(path) or True))
    with pytest.raises(ExamplesError, match="cannot be read"):
        find_image_paths([tmp_path / "a"])
