"""Optimizers of all methods: Adam, and a joint optimizer that steps several at once."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def adam(groups: Iterable[dict[str, Any]], **options: Any) -> torch.optim.Adam:
    """Adam, fused on CPUs, where that takes a third of the time.

    On other devices torch chooses, because Lightning does not support a fused optimizer with a gradient scaler.

    Args:
        groups: parameter groups.
        **options: options of `torch.optim.Adam` for groups that do not set them.
    """
    groups = [{**group, "params": list(group["params"])} for group in groups]
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    return torch.optim.Adam(groups, fused=fused_on(*devices), **options)


def fused_on(*devices: str) -> bool | None:
    """Value of Adam's `fused` option for parameters on devices of these types; None leaves the choice to torch."""
    return True if devices == ("cpu",) else None


class JointOptimizer(Optimizer):
    """Several optimizers, each with its own parameter groups, that step together.

    Lightning's automatic optimization takes one optimizer only. Parameters without a gradient are skipped, so a batch
    that trains one network leaves the other networks and their optimizer state unchanged.

    Args:
        optimizers: the optimizers; this one shares their groups and their state.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self._optimizers = list(optimizers)
        super().__init__([group for optimizer in optimizers for group in optimizer.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Gives each optimizer its part of the groups, and the shared state."""
        groups = iter(self.param_groups)
        for optimizer in self._optimizers:
            optimizer.param_groups = [next(groups) for _ in optimizer.param_groups]
            optimizer.state = self.state

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]  # torch's overloads
        """Steps each optimizer once."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self._optimizers:
            optimizer.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a saved state; see `torch.optim.Optimizer`."""
        super().load_state_dict(state_dict)
        self._share()
