"""What makes GPUs fast."""
