"""Adafactor as tensor2tensor has it: it remembers a row and a column of each matrix instead of all its entries."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

_FLOOR = 1e-30
"""Added to squared gradients. torch's `Adafactor` has 1.2e-7 instead: below 3e-4, steps grow as 1/gradient."""

_SMALLEST_SCALE = 1e-3
"""Weights that are smaller step as if they were of this size, so that those that start at zero can leave it."""


class Adafactor(Optimizer):
    """Adafactor without momentum; the learning rate is relative to the size of the weights.

        r ← r + t^−0.8 (mean_columns(G² + ε) − r),   c ← c + t^−0.8 (mean_rows(G² + ε) − c)
        U = G / √(r cᵀ / mean(r)),   W ← W − α max(10⁻³, RMS(W)) U / max(1, RMS(U))

    G is the gradient of weights W at their t-th step. A convolution's kernel is a matrix of outputs and inputs at each
    of its positions; RMS is over all of them. Biases, which are vectors, remember all of G² + ε.

    torch's `Adafactor` differs in ε, factors a kernel over its height and width, and bounds α by 1/√t.

    Args:
        groups: parameter groups.
        lr: α, for groups that do not set it.
        stacked: of parameters that hold the weights of several layers along their first dimension: of how many. Each
            layer's weights step as if they were a parameter of their own.

    Reference:
        Shazeer & Stern 2018, Adafactor: Adaptive learning rates with sublinear memory cost, algorithm 4,
        https://arxiv.org/abs/1804.04235; tensor2tensor, utils/adafactor.py
    """

    def __init__(
        self, groups: Iterable[dict[str, Any]], lr: float, *, stacked: Mapping[Tensor, int] | None = None
    ) -> None:
        self._stacked = {} if stacked is None else dict(stacked)
        super().__init__(groups, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:  # type: ignore[override]  # torch's overloads
        """Steps every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step(parameter, parameter.grad, group["lr"])
        return loss

    def _step(self, parameter: Tensor, gradient: Tensor, learning_rate: float) -> None:
        count = self._stacked.get(parameter, 1)
        weights, gradients = _layers(parameter, count), _layers(gradient, count)
        state = self.state[parameter]
        squares = gradients.square() + _FLOOR
        means = {"square": squares} if squares.ndim == 2 else {"row": squares.mean(-1), "column": squares.mean(-2)}
        if not state:
            state["step"] = torch.tensor(0.0)
            state.update({name: torch.zeros_like(mean) for name, mean in means.items()})
        state["step"] += 1
        for name, mean in means.items():
            state[name].lerp_(mean, float(state["step"]) ** -0.8)
        if "square" in state:
            updates = gradients * state["square"].rsqrt()
        else:
            rows, columns = state["row"], state["column"]
            relative = rows / rows.mean(-1, keepdim=True)
            updates = gradients * relative.rsqrt().unsqueeze(-1) * columns.rsqrt().unsqueeze(-2)
        sizes = learning_rate * _rms(weights).clamp(min=_SMALLEST_SCALE) / _rms(updates).clamp(min=1)
        weights.sub_(updates * sizes)


def _layers(values: Tensor, count: int) -> Tensor:
    """A view of the values of so many layers, the dimensions of outputs and inputs last."""
    layers: Tensor = values.unflatten(0, (count, -1))
    return layers if layers.ndim < 3 else layers.movedim((1, 2), (-2, -1))


def _rms(layers: Tensor) -> Tensor:
    """Root mean square of each layer's values."""
    return layers.square().mean(tuple(range(1, layers.ndim)), keepdim=True).sqrt()
