"""Random values on every input of every node, as links may give them."""

import pytest

pytestmark = pytest.mark.host


def test_value_of_any_kind_is_what_the_schema_allows_or_refused(in_comfyui):
    told = in_comfyui("values_in_comfyui.py", 20_000)
    assert told["broken"] == []
    assert told["slowest"] < 1
    assert told["nothing"] == []
    assert told["looked for"] == []
    for kind in ("INT", "FLOAT", "STRING", "COMBO", "BOOLEAN", "IMAGE"):
        assert told["found"][f"{kind} taken"] > 5
        assert told["found"][f"{kind} refused"] > 5
