"""What reads numbers of tensors, which on a GPU waits for all the work before them."""

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_READING = {"__bool__", "__float__", "__index__", "__int__", "cpu", "item", "nonzero", "numpy", "tolist"}


class Reads(TorchFunctionMode):
    """Counts the functions that read tensors by any means, on whatever device these are."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[Any], args: Any = (), kwargs: Any = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in _READING or (name in ("__getitem__", "__setitem__") and _is_mask(args[1])):
            self.counts[f"{sys._getframe(1).f_code.co_name}: {name}"] += 1
        return func(*args, **(kwargs or {}))


def _is_mask(index: Any) -> bool:
    """Whether an index picks a number of rows that only its values tell."""
    return any(isinstance(part, Tensor) and part.dtype == torch.bool for part in (index, *_parts(index)))


def _parts(index: Any) -> tuple[Any, ...]:
    return index if isinstance(index, tuple) else ()
