"""Few-shot examples: the dataset, its features, batches of it, and streams of images."""
