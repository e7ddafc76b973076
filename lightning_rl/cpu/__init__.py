"""Code that only makes CPUs faster; every kernel says which plain torch operation it equals."""
