"""The names that classifiers go by at the command line and in graphs."""

from __future__ import annotations

__all__ = ["METHODS"]

METHODS = ("auto", "clip", "hybrid", "diffusion", "cascade")
"""``"auto"`` is ``"clip"`` where the host has a CLIP space, else ``"diffusion"``.

Not ``"cascade"``: it costs many denoiser evaluations more and was no better where it was measured (docs/performance.md).
"""
