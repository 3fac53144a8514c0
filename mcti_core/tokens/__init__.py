"""Token sets, their files, and the formats of other programs."""

__all__ = ["LAYOUTS"]

LAYOUTS = ("comfyui", "diffusers", "onetrainer")
"""Layouts of embedding files; nearly all programs read the first one."""
