"""Pure functions from tensors to tensors, each the equation in its docstring; the caller sums or averages."""
