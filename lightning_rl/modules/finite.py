"""Losses and gradient norms that must be finite, read from their device once for many updates."""

import math

import torch
from torch import Tensor

_STATE_BEFORE = "the newest checkpoint holds the state before it"


class Unread:
    """Numbers that are still on the device that computes them; reading each at once would let a GPU run out of work."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._values: list[Tensor] = []

    def add(self, name: str, *values: Tensor) -> None:
        """Keeps numbers of an update.

        Args:
            name: what messages call them.
            *values: scalars without gradient.
        """
        self._names += [name] * len(values)
        self._values += values

    def check(self) -> None:
        """Reads and forgets all of them.

        Raises:
            FloatingPointError: one is not finite; names the first that was added.
        """
        if not self._values:
            return
        names, values = self._names, torch.stack([value.float() for value in self._values]).tolist()
        self._names, self._values = [], []
        for name, value in zip(names, values, strict=True):
            if not math.isfinite(value):
                raise FloatingPointError(f"{name} is {value}; {_STATE_BEFORE}")
