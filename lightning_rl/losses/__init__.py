"""Pure functions from tensors to tensors, each the equation that its docstring states; the caller sums or averages."""
