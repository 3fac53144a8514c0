"""Classifiers made from learned tokens."""

__all__ = ["METHODS"]

METHODS = ("auto", "clip", "hybrid", "diffusion", "cascade")
"""Names on the command line and in nodes. ``"auto"`` is ``"clip"`` if the host has a CLIP space, otherwise ``"diffusion"``.

It is never ``"cascade"``, which needs many more denoiser evaluations and was not better in measurements (docs/performance.md).
"""
