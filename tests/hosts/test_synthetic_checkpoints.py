"""ComfyUI's stock nodes load the synthetic checkpoints like real models, with distinguishable outputs."""

from pathlib import Path

import pytest

pytestmark = pytest.mark.host

# name: class and model type, context, pooled output, and what the loaders find lacking, as in the real files
CHECKPOINTS = {
    "sd15": ("SD15", "EPS", 768, 768, ["clip_l.logit_scale", "clip_l.transformer.text_projection.weight"]),
    "sd15 full": ("SD15", "EPS", 768, 768, ["clip_l.logit_scale", "clip_l.transformer.text_projection.weight"]),
    "sd20": ("SD20", "V_PREDICTION", 1024, 1024, []),
    "sd20 base": ("SD20", "EPS", 1024, 1024, []),
    "sdxl": ("SDXL", "EPS", 2048, 1280, ["clip_l.logit_scale", "clip_l.transformer.text_projection.weight"]),
    "sd3": ("SD3", "FLOW", 4096, 2048, ["clip_l.logit_scale", "clip_g.logit_scale"]),
}
CLIPS = {
    "clip_l": (768, 1024),
    "clip_h": (1024, 1280),
}  # projection, width; clip_g loads too, but takes 4 GB and half a minute


def quick_first(names):
    """Each loads ComfyUI anew; one of them in an ordinary run is enough."""
    first, *others = names
    return [first, *(pytest.param(name, marks=pytest.mark.slow) for name in others)]


@pytest.mark.parametrize("name", quick_first(CHECKPOINTS))
def test_a_checkpoint_is_taken_for_the_real_model(in_comfyui, tmp_path: Path, name: str) -> None:
    family, prediction, context, pooled, lacking = CHECKPOINTS[name]
    found = in_comfyui("synthetic_in_comfyui.py", tmp_path, name)
    assert (found["class"], found["type"]) == (family, prediction)
    assert (found["context"], found["pooled"]) == ([1, 77, context], [1, pooled])
    assert found["messages"] == ([f"clip missing: {lacking}"] if lacking else [])
    assert found["own storage"]
    assert {what: size for what, size in found["differences"].items() if not size > 0.03} == {}  # or not finite
    assert 0.2 < found["spreads"]["encoded"] < 5
    assert 0.05 < found["spreads"]["image"] < 0.45
    assert (tmp_path / "checkpoint.ckpt").stat().st_size < 6e6


@pytest.mark.slow
@pytest.mark.parametrize("name", CLIPS)
def test_a_whole_clip_is_taken_for_clip_vision(in_comfyui, tmp_path: Path, name: str) -> None:
    projection, width = CLIPS[name]
    found = in_comfyui("synthetic_in_comfyui.py", tmp_path, name)
    assert (found["embeds"], found["hidden"]) == ([2, projection], [2, 257, width])
    assert found["messages"] == []
    assert found["own storage"]
    assert found["differences"]["image"] > 0.03
    assert (tmp_path / "clip.bin").stat().st_size < 6e6
