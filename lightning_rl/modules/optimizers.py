"""The optimisers of all methods: Adam, and several optimisers behind the one that Lightning takes."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def adam(groups: Iterable[dict[str, Any]], **options: Any) -> torch.optim.Adam:
    """Adam, which on a CPU reads and writes each number once: a third of the time of one operator after another.

    Elsewhere torch chooses: what its gradient scaler does with a fused one keeps Lightning from half precision.

    Args:
        groups: parameter groups.
        options: of the optimiser, for groups that have none of their own.
    """
    groups = [{**group, "params": list(group["params"])} for group in groups]
    devices = {parameter.device.type for group in groups for parameter in group["params"]}
    return torch.optim.Adam(groups, fused=fused_on(*devices), **options)


def fused_on(*devices: str) -> bool | None:
    """The `fused` of an Adam whose parameters are on devices of these types; None leaves the choice to torch."""
    return True if devices == ("cpu",) else None


class JointOptimizer(Optimizer):
    """Optimisers of different kinds, each with parameter groups of its own, that step together.

    Each steps only the parameters that have a gradient: a batch that is about one network leaves the others, and what
    their optimisers remember, as they are.

    Args:
        optimizers: their groups and their state become this one's.
    """

    def __init__(self, optimizers: Sequence[Optimizer]) -> None:
        self._optimizers = list(optimizers)
        super().__init__([group for optimizer in optimizers for group in optimizer.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Gives every optimiser its part of this one's groups, and the state."""
        groups = iter(self.param_groups)
        for optimizer in self._optimizers:
            optimizer.param_groups = [next(groups) for _ in optimizer.param_groups]
            optimizer.state = self.state

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]  # torch's overloads
        """One step of each."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for optimizer in self._optimizers:
            optimizer.step()
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes a saved state; see `torch.optim.Optimizer`."""
        super().load_state_dict(state_dict)
        self._share()
