from typing import Any

import pytest
import torch

from lightning_rl.data.evaluation_dataset import UniformPolicy
from lightning_rl.data.procgen import ProcgenDataModule
from lightning_rl.types import Rollout


def collected(data: ProcgenDataModule) -> Rollout:
    data.setup("fit")
    rollout = data.collector.collect(UniformPolicy(data.num_actions))
    data.teardown("fit")
    return rollout


@pytest.mark.parametrize("return_scaling", [False, True])
def test_a_stack_of_frames_changes_nothing_but_the_observations(return_scaling: bool) -> None:
    options: dict[str, Any] = {"game": "starpilot", "num_envs": 2, "num_steps": 40, "return_scaling": return_scaling}
    stacked, alone = ProcgenDataModule(frame_stack=2, **options), ProcgenDataModule(**options)

    rollout, expected = collected(stacked), collected(alone)

    assert (stacked.obs_shape, alone.obs_shape) == ((64, 64, 6), (64, 64, 3))
    assert torch.equal(rollout.obs[..., 3:], expected.obs)
    opened = expected.terminated[..., None, None, None]
    assert torch.equal(rollout.obs[1:, ..., :3], torch.where(opened, expected.obs[1:], expected.obs[:-1]))
    assert torch.equal(rollout.rewards, expected.rewards)
    assert torch.equal(rollout.actions, expected.actions)


def test_policies_are_judged_on_stacks_too() -> None:
    data = ProcgenDataModule(frame_stack=3, num_envs=2)
    shapes: set[tuple[int, ...]] = set()
    policy = UniformPolicy(data.num_actions)

    list(data.evaluation("train_levels", policy, num_envs=2, env_steps=8, watcher=lambda obs, _: shapes.add(obs.shape)))

    assert shapes == {(2, 64, 64, 9)}
