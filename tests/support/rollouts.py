"""Rollouts of data modules, and whether two are the same."""

import torch
from torch import Tensor

from lightning_rl.data.datamodule import RolloutDataModule
from lightning_rl.data.evaluation_dataset import UniformPolicy
from lightning_rl.types import Rollout


def collected(data: RolloutDataModule) -> Rollout:
    """A rollout of uniformly random actions."""
    return data.collector.collect(UniformPolicy(data.num_actions))


def assert_same(actual: Rollout, expected: Rollout) -> None:
    """Raises where a tensor differs in as much as a bit."""
    tensors = {name: value for name, value in vars(expected).items() if isinstance(value, Tensor)}
    different = [name for name, value in tensors.items() if not torch.equal(getattr(actual, name), value)]
    assert different == []
