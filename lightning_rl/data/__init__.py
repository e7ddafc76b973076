"""From environments to batches."""
