"""What survives a kill: checkpoints, metrics, the W&B run, locks and signals."""
