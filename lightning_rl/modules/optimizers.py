"""Optimizers and learning-rate schedules: Adam, those that a config names, and one that steps several at once."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from lightning_rl.errors import check_option


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


def take_options(saved: list[dict[str, Any]], optimizer: Optimizer, *, scheduled: bool) -> None:
    """Puts an optimizer's options into saved parameter groups, unless a schedule has changed them since."""
    for old, new in zip(saved, optimizer.param_groups, strict=True):
        if not scheduled:
            old |= {key: value for key, value in new.items() if key != "params"}


def fuse(saved: list[dict[str, Any]], device: str) -> None:
    """Sets the `fused` option of Adam's saved parameter groups as for a device of this type."""
    for group in saved:
        if "fused" in group:
            group["fused"] = fused_on(device)


def configured(
    groups: Iterable[dict[str, Any]], *, optimizer: OptimizerCallable | None, scheduler: LRSchedulerCallable | None
) -> Any:
    """What Lightning's `configure_optimizers` returns: an optimizer, and a schedule that steps at epoch ends.

    Args:
        groups: parameter groups, each with its learning rate `lr`, and `eps` where Adam has another one than torch's.
        optimizer: builds another optimizer than Adam.
        scheduler: builds the schedule; None for constant learning rates.
    """
    if optimizer is None:
        built: Optimizer = adam(groups)
    else:
        built = optimizer([{key: value for key, value in group.items() if key != "eps"} for group in groups])
    if scheduler is None:
        return built
    return {"optimizer": built, "lr_scheduler": {"scheduler": scheduler(built), "interval": "epoch"}}


def check_factories(optimizer: partial[Any] | None, scheduler: partial[Any] | None) -> None:
    """Refuses what a run cannot follow.

    Raises:
        ValueError: the optimizer has a learning rate of its own, or the schedule needs a metric.
    """
    if optimizer is not None and "lr" in optimizer.keywords:
        rate, default = optimizer.keywords["lr"], inspect.signature(optimizer.func).parameters["lr"].default
        is_its_own = default is not inspect.Parameter.empty and rate != default
        check_option("model.optimizer.lr", rate, not is_its_own, "left out, since model.learning_rate is the rate")
    if scheduler is not None:
        needs_metric = issubclass(scheduler.func, ReduceLROnPlateau)  # type: ignore[arg-type]  # a class: see below
        check_option("model.scheduler", scheduler.func.__name__, not needs_metric, "one that needs no metric")


def partial_of_class(factory: Any) -> partial[Any]:
    """A callable that a config or a program gives, as what a checkpoint can name: a class with some of its options.

    Raises:
        ValueError: it is neither a class nor `functools.partial` of one.
    """
    kind, options = factory, {}
    if isinstance(factory, partial):
        kind, options = (factory.func, *factory.args)[-1], factory.keywords  # the parser's call a builder of the class
    is_class = isinstance(kind, type)
    check_option("model.optimizer and model.scheduler", factory, is_class, "a class, or functools.partial of one")
    return partial(kind, **options)


def clip_groups(groups: Iterable[dict[str, Any]], *, max_norm: float) -> list[Tensor]:
    """Clips the gradient norm of each parameter group that has gradients; a group's own `max_grad_norm` is its bound.

    Args:
        groups: parameter groups of an optimizer.
        max_norm: the bound of the others.

    Returns:
        The norms before clipping, on the parameters' device.
    """
    norms = []
    for group in groups:
        trained = [parameter for parameter in group["params"] if parameter.grad is not None]
        if trained:
            norms.append(nn.utils.clip_grad_norm_(trained, group.get("max_grad_norm", max_norm)))
    return norms


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
