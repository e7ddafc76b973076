"""Single precision against definitions in double precision."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]


def rounded(numbers: Array) -> Array:
    """The same numbers as single precision holds them, so that rounding the inputs is no part of the comparison."""
    return numbers.astype(np.float32).astype(np.float64)


def tensor(numbers: Array) -> Tensor:
    """In single precision, as in training."""
    return torch.from_numpy(numbers).float()


def assert_matches(actual: Tensor, expected: Array) -> None:
    """Equal up to about a hundred roundings of numbers near one: the sums here have at most eleven terms."""
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual.double(), torch.from_numpy(np.asarray(expected)), rtol=1e-5, atol=1e-5)
