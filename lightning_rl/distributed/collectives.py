"""What the processes of one run agree on; a process that is alone agrees with itself."""

import os
from typing import TypeVar

import torch
from torch import Tensor, distributed

from lightning_rl.distributed.running_moments import RunningMoments

T = TypeVar("T")


def world_size() -> int:
    """How many processes train together; 1 before they have found each other."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def all_gather(value: T) -> list[T]:
    """What each process gave, in the order of their ranks; a collective call."""
    if world_size() == 1:
        return [value]
    values: list[T] = [value] * world_size()
    distributed.all_gather_object(values, value)
    return values


def all_reduce_moments(own: RunningMoments) -> RunningMoments:
    """The moments of the samples of all processes together, the same bits on each; a collective call."""
    first, *others = all_gather(own)
    for moments in others:
        first = first.merged(moments)
    return first


def all_reduce_sum(own: Tensor) -> Tensor:
    """The sum of whole numbers over all processes, in place; a collective call."""
    if world_size() > 1:
        distributed.all_reduce(own)
    return own


def all_reduce_mean(own: dict[str, float]) -> dict[str, float]:
    """The mean of each number over the processes that have it; a collective call."""
    everyones = all_gather(own)
    keys = dict.fromkeys(key for numbers in everyones for key in numbers)
    columns = {key: [numbers[key] for numbers in everyones if key in numbers] for key in keys}
    return {key: sum(column) / len(column) for key, column in columns.items()}


def moments_of(sample: Tensor) -> RunningMoments:
    """Mean and population variance of all numbers in a tensor, in float64."""
    wide = sample.double()
    deviation_squared, average = torch.var_mean(wide, correction=0)
    return RunningMoments(float(average), float(deviation_squared), float(wide.numel()))


def started_from_outside() -> int:
    """How many processes torchrun or srun has started for this run, as the environment says; 1 where none has."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return int(os.environ.get("WORLD_SIZE", "1"))
    return int(os.environ.get("SLURM_NTASKS", "1")) if "SLURM_PROCID" in os.environ else 1
