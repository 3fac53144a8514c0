"""The recipe of the pocket checkpoint: ``python -m mcti_core.pocket.recipe --help``."""
