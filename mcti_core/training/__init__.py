"""Training: the loop, its settings, and its checkpoints."""
