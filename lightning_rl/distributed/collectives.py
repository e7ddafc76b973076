"""What the processes of one run agree on; a process that is alone agrees with itself."""

import os
from typing import TypeVar

import torch
from torch import Tensor, distributed

from lightning_rl.distributed.running_moments import Moments

T = TypeVar("T")


def number() -> int:
    """How many processes train together; 1 before they have found each other."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def gathered(value: T) -> list[T]:
    """What each process gave, in the order of their ranks; a collective call."""
    if number() == 1:
        return [value]
    values: list[T] = [value] * number()
    distributed.all_gather_object(values, value)
    return values


def merged(own: Moments) -> Moments:
    """The moments of the samples of all processes together, the same bits on each; a collective call."""
    first, *others = gathered(own)
    for moments in others:
        first = first.merged(moments)
    return first


def total(own: Tensor) -> Tensor:
    """The sum of whole numbers over all processes, in place; a collective call."""
    if number() > 1:
        distributed.all_reduce(own)
    return own


def mean(own: dict[str, float]) -> dict[str, float]:
    """The mean of each number over the processes that have it; a collective call."""
    everyones = gathered(own)
    keys = dict.fromkeys(key for numbers in everyones for key in numbers)
    columns = {key: [numbers[key] for numbers in everyones if key in numbers] for key in keys}
    return {key: sum(column) / len(column) for key, column in columns.items()}


def moments_of(sample: Tensor) -> Moments:
    """Mean and population variance of all numbers in a tensor, in float64."""
    wide = sample.double()
    deviation_squared, average = torch.var_mean(wide, correction=0)
    return Moments(float(average), float(deviation_squared), float(wide.numel()))


def started_from_outside() -> int:
    """How many processes torchrun or srun has started for this run, as the environment says; 1 where none has."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return int(os.environ.get("WORLD_SIZE", "1"))
    return int(os.environ.get("SLURM_NTASKS", "1")) if "SLURM_PROCID" in os.environ else 1
