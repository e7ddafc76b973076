"""The order in which samples are learned from."""

from collections.abc import Iterator

import torch
from jaxtyping import Int64
from torch import Tensor

from lightning_rl.types import moved


def num_minibatches(num_samples: int, minibatch_size: int, *, option: str = "minibatch_size") -> int:
    """Minibatches of one pass.

    Args:
        num_samples: of a rollout.
        minibatch_size: of them.
        option: what the size is called in the module's arguments.

    Raises:
        ValueError: the last minibatch would be smaller than the others.
    """
    if minibatch_size < 1 or num_samples % minibatch_size:
        raise ValueError(
            f"model.{option} must divide num_steps × num_envs = {num_samples} samples, found {minibatch_size}"
        )
    return num_samples // minibatch_size


def shuffled(
    num_samples: int,
    *,
    epochs: int,
    minibatch_size: int,
    generator: torch.Generator,
    device: torch.device = torch.device("cpu"),  # noqa: B008  # immutable
) -> Iterator[Int64[Tensor, "M"]]:
    """Indices of every minibatch: each pass visits each sample once, in an order of its own.

    Args:
        num_samples: of a rollout.
        epochs: passes.
        minibatch_size: samples of a minibatch.
        generator: on the CPU, draws the orders of all passes before the first minibatch.
        device: where the samples are gathered, to which all indices move together.
    """
    num_minibatches(num_samples, minibatch_size)
    orders = [torch.randperm(num_samples, generator=generator) for _ in range(epochs)]
    for order in moved(torch.stack(orders), device):
        yield from order.split(minibatch_size)
