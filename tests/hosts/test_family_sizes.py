"""The configurations of ``benchmarks/families.py`` are those that ComfyUI detects, and as large as the published models."""

import pytest

from benchmarks.families import FAMILIES
from mcti_core.tokens.encoders import WIDTHS

pytestmark = [pytest.mark.host, pytest.mark.slow]


def test_families_at_full_size_are_the_published_models(in_comfyui, comfyui):
    if "klein_te" not in (comfyui / "comfy" / "text_encoders" / "flux.py").read_text(encoding="utf-8"):
        pytest.skip("this ComfyUI has no Flux.2 Klein; it came with 0.16.0")
    found = in_comfyui("family_sizes_in_comfyui.py")
    assert list(found) == list(FAMILIES)
    for name, family in FAMILIES.items():
        assert found[name]["differences"] == []
        assert found[name]["billions"] == pytest.approx(family.published, rel=0.035)
        assert all(width in WIDTHS[key] for key, width in found[name]["widths"].items())
