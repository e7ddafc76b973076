"""The order in which samples are learned from."""

from collections.abc import Iterator

import torch
from jaxtyping import Int64
from torch import Tensor


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
    num_samples: int, *, epochs: int, minibatch_size: int, generator: torch.Generator
) -> Iterator[Int64[Tensor, "M"]]:
    """Indices of every minibatch: each pass visits each sample once, in an order of its own."""
    num_minibatches(num_samples, minibatch_size)
    for _ in range(epochs):
        yield from torch.randperm(num_samples, generator=generator).split(minibatch_size)
