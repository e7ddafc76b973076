"""Collectives over the ranks of one run; a single process needs no process group."""

import os
from typing import TypeVar

import torch
from torch import Tensor, distributed

from lightning_rl.distributed.running_moments import RunningMoments

T = TypeVar("T")


def world_size() -> int:
    """Number of ranks; 1 before the process group is initialized."""
    return distributed.get_world_size() if distributed.is_available() and distributed.is_initialized() else 1


def all_gather(value: T) -> list[T]:
    """The values of all ranks, in the order of ranks; a collective call."""
    if world_size() == 1:
        return [value]
    values: list[T] = [value] * world_size()
    distributed.all_gather_object(values, value)
    return values


def all_reduce_moments(own: RunningMoments) -> RunningMoments:
    """Moments of all ranks' samples together, bit-identical on every rank; a collective call."""
    if world_size() == 1:
        return own
    # numbers in a tensor, not pickled objects, which take several collectives: minibatches may be normalized by this
    numbers = torch.tensor(own, dtype=torch.float64, device="cuda" if distributed.get_backend() == "nccl" else "cpu")
    gathered = [torch.empty_like(numbers) for _ in range(world_size())]
    distributed.all_gather(gathered, numbers)
    first, *others = [RunningMoments(*of_rank) for of_rank in torch.stack(gathered).tolist()]
    for moments in others:
        first = first.merged(moments)
    return first


def all_reduce_sum(own: Tensor) -> Tensor:
    """Sum of an integer tensor over all ranks, in place; a collective call."""
    if world_size() > 1:
        distributed.all_reduce(own)
    return own


def all_reduce_mean(own: dict[str, float]) -> dict[str, float]:
    """Mean of each number over the ranks that have it; a collective call."""
    gathered = all_gather(own)
    keys = dict.fromkeys(key for numbers in gathered for key in numbers)
    columns = {key: [numbers[key] for numbers in gathered if key in numbers] for key in keys}
    return {key: sum(column) / len(column) for key, column in columns.items()}


def moments_of(sample: Tensor) -> RunningMoments:
    """Mean and population variance of all elements of a tensor, in float64."""
    variance, mean = torch.var_mean(sample.double(), correction=0)
    return RunningMoments(float(mean), float(variance), float(sample.numel()))


def num_launched_processes() -> int:
    """Number of processes that torchrun or srun launched for this run; 1 without a launcher."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return int(os.environ.get("WORLD_SIZE", "1"))
    return int(os.environ.get("SLURM_NTASKS", "1")) if "SLURM_PROCID" in os.environ else 1
