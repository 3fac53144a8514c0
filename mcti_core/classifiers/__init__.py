"""Classifiers made from learned tokens."""
