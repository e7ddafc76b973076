"""Games as `gymnasium.vector.VectorEnv`s whose whole state can be taken and put back."""
