"""Few-shot examples: the dataset, its cached features, its batches, and streams of images."""

__all__ = ["ALPHA", "MASKLABEL"]

MASKLABEL = "masklabel"
"""OneTrainer's layout of masks: ``cat-masklabel.png`` in the same folder as ``cat.jpg``."""
ALPHA = "alpha"
"""kohya's alpha_mask: the image's alpha channel is the mask."""
