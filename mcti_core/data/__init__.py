"""Few-shot examples: the dataset, its cached features, its batches, and streams of images."""
