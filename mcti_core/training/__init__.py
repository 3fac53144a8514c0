"""Training: the loop, its settings, and its checkpoints."""

__all__ = ["TRACKERS"]

TRACKERS = ("tensorboard", "wandb", "csv")
