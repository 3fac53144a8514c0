"""Checks of the options that log and validate a training."""

from argparse import Namespace

import pytest
from PIL import Image

from mcti_core.cli.train_monitor import held_out_of
from mcti_core.errors import ConfigError


def test_validation_folder_with_a_class_that_is_not_in_training_is_refused(tmp_path):
    for name in ("b", "c"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name / "1.png")
    arguments = Namespace(validation_folder=tmp_path, model=None)
    assert held_out_of(arguments, ("a", "b", "c"), None).classes == ("b", "c")
    with pytest.raises(ConfigError, match="not in training: c; remove them"):
        held_out_of(arguments, ("a", "b"), None)
