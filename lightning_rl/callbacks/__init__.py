"""What happens around training: metrics, random streams, stopping, checkpoints, videos, reports."""
