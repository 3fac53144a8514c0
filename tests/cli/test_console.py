"""Progress bars and messages of a running command."""

import sys

import pytest

from mcti_core.cli.console import check_progress_bars
from mcti_core.cli.parser import main


@pytest.fixture
def fresh_tqdm(monkeypatch):
    """It reads its variables of the environment when it is imported."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "tqdm"]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize("variable", ["TQDM_MININTERVAL", "TQDM_NCOLS", "TQDM_POSITION", "TQDM_ASCII"])
def test_variable_that_tqdm_cannot_use_is_named(variable, fresh_tqdm, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv(variable, "x")
    assert main(["convert", str(tmp_path), "--format", "set", "--output", str(tmp_path / "x.safetensors")]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"mcti: progress bars cannot be drawn with {variable} in the environment")
    assert error.count("\n") == 1


def test_variables_that_tqdm_can_use_pass(fresh_tqdm, monkeypatch, capsys):
    for name, value in (("TQDM_MININTERVAL", "0.5"), ("TQDM_DISABLE", "1"), ("TQDM_COLOUR", "green")):
        monkeypatch.setenv(name, value)
    check_progress_bars()
    assert capsys.readouterr() == ("", "")
