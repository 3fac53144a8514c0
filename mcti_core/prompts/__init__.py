"""Prompt syntax, and splicing token vectors into embedded text."""
