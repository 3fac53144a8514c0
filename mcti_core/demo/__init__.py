"""``mcti demo``: the whole method on real handwriting, with the pocket checkpoint."""
