"""The pocket checkpoint: a tiny latent diffusion model of handwriting, shipped with the project."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..hosts.base import Host
from ..training.config import TrainConfig

__all__ = ["POCKET_CONFIG", "POCKET_FOLDER", "load_pocket"]

POCKET_FOLDER = Path(__file__).parent / "weights"
"""A folder in diffusers' layout, with the CLIP model in its subfolder ``clip``."""

POCKET_CONFIG = TrainConfig(steps=150, batch_size=20, lr=2e-2, logit_scale=5.0)
"""Settings for the pocket checkpoint, chosen on characters of the held-out alphabet that docs/results.md does not report.

Compared with Stable Diffusion, its token embeddings are longer, steps are cheap, and its image features are further apart.
"""


def load_pocket(*, device: str = "cpu", dtype: str = "fp32") -> Host:
    """Load the pocket checkpoint as a host: 64 x 64 pixels, with a CLIP space."""
    from ..hosts.diffusers.host import load_host

    host = load_host(POCKET_FOLDER, POCKET_FOLDER / "clip", device=device, dtype=dtype)
    return replace(host, name="MC-TI pocket checkpoint", generic_word="glyph")
