"""The pocket checkpoint: a tiny latent-diffusion world of handwriting, shipped with the project."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..hosts.base import Host
from ..training.config import TrainConfig

__all__ = ["POCKET_CONFIG", "POCKET_FOLDER", "load_pocket"]

POCKET_FOLDER = Path(__file__).parent / "weights"
"""A diffusers folder, with the CLIP model in its subfolder ``clip``."""

POCKET_CONFIG = TrainConfig(steps=150, batch=20, lr=2e-2, logit_scale=5.0)
"""Settings for the pocket checkpoint, chosen on characters of the held-out alphabet that docs/results.md does not report.

Its token embeddings are longer than Stable Diffusion's, a step costs little, and its image features lie further apart.
"""


def load_pocket(*, device: str = "cpu", dtype: str = "fp32") -> Host:
    """The pocket checkpoint as a host: 64 x 64 pixels, with a CLIP space."""
    from ..hosts.diffusers.host import load_host

    host = load_host(POCKET_FOLDER, POCKET_FOLDER / "clip", device=device, dtype=dtype)
    return replace(host, name="MC-TI pocket checkpoint", generic_word="glyph")
