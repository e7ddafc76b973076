"""Losses and gradient norms that must be finite, read from their device once for many updates."""

import math

import torch
from torch import Tensor

_STATE_BEFORE = "the newest checkpoint holds the state before it"


class Unread:
    """Numbers that are still on the device that computes them."""

    def __init__(self) -> None:
        self._names: list[str] = []
        self._values: list[Tensor] = []

    def add(self, numbers: dict[str, Tensor]) -> None:
        """Keeps numbers of an update.

        Args:
            numbers: scalars without gradient, by their name in messages.
        """
        self._names += numbers
        self._values += numbers.values()

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
