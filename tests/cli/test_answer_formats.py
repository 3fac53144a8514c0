import json
import os

import pytest

from mcti_core.cli.answer_formats import json_line


@pytest.mark.parametrize(
    ("encoding", "image", "escaped"),
    [
        ("utf-8", "猫.png", False),
        ("utf-8", os.fsdecode(b"caf\xe9.png"), True),
        ("cp1252", "é.png", False),
        ("cp1252", "猫🐈.png", True),
        ("ascii", "é.png", True),
    ],
)
def test_a_line_is_readable_where_that_can_be_written(encoding, image, escaped):
    """And gives the record back anyway."""
    line = json_line({"image": image, "index": 1}, encoding).encode(encoding)
    assert json.loads(line.decode(encoding)) == {"image": image, "index": 1}
    assert (b"\\u" in line) == escaped
