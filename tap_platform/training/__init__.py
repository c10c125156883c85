"""One worker's life: trainer, strategies, checkpoints and callbacks."""
