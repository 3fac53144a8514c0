"""Classifiers that learned tokens make."""
