"""Prompts: how they are written, and token vectors spliced into embedded text."""
