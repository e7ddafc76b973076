from dataclasses import FrozenInstanceError, fields, replace

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from lightning_rl.protocols import Agent, Policy
from lightning_rl.types import ActorOutput, Episodes, RecurrentInputs, Rollout, TensorFields


def rollout(num_steps: int = 5, num_envs: int = 3, num_actions: int = 7) -> Rollout:
    return Rollout(
        actions=torch.randint(num_actions, (num_steps, num_envs)),
        rewards=torch.randn(num_steps, num_envs),
        terminated=torch.rand(num_steps, num_envs) < 0.5,
        behavior_logits=torch.randn(num_steps, num_envs, num_actions),
        behavior_values=torch.randn(num_steps, num_envs, 2),
        obs=torch.randint(256, (num_steps + 1, num_envs, 4, 6, 1), dtype=torch.uint8),
        recurrent_inputs=RecurrentInputs.initial(num_envs),
    )


def tensors_of(moved: Rollout) -> list[Tensor]:
    values = [getattr(owner, field.name) for owner in (moved, moved.recurrent_inputs) for field in fields(owner)]
    return [value for value in values if isinstance(value, Tensor)]


@pytest.mark.parametrize("name", ["actions", "rewards", "terminated", "behavior_logits", "behavior_values", "obs"])
def test_a_rollout_with_time_and_environments_swapped_in_one_field_is_refused(name: str) -> None:
    good = rollout()

    with pytest.raises(TypeCheckError, match=name):
        replace(good, **{name: getattr(good, name).transpose(0, 1)})


def test_a_rollout_without_the_frame_to_bootstrap_from_is_refused() -> None:
    good = rollout()

    with pytest.raises(TypeCheckError, match="obs"):
        replace(good, obs=good.obs[:-1])


def test_actor_outputs_of_different_numbers_of_environments_are_refused() -> None:
    with pytest.raises(TypeCheckError, match="values"):
        ActorOutput(actions=torch.zeros(3).long(), logits=torch.zeros(3, 7), values=torch.zeros(2, 1))


def test_every_tensor_of_a_rollout_moves() -> None:
    moved = replace(rollout(), behavior_noise=torch.randn(5, 3, 2)).to(torch.device("meta"))

    assert {tensor.device.type for tensor in tensors_of(moved)} == {"meta"}
    assert len(tensors_of(moved)) == 11


def test_what_is_not_a_tensor_stays_as_it_is_when_moved() -> None:
    episodes = Episodes(
        level_set="train_levels",
        returns=torch.zeros(2, dtype=torch.float64),
        lengths=torch.ones(2, dtype=torch.int64),
        level_complete=None,
    )

    moved = episodes.to(torch.device("meta"))

    assert (moved.level_set, moved.level_complete) == ("train_levels", None)
    assert (moved.returns.device.type, moved.lengths.device.type) == ("meta", "meta")


def test_moving_keeps_the_numbers_and_the_class() -> None:
    good = rollout()

    moved: TensorFields = good.to(torch.device("cpu"))

    assert type(moved) is Rollout
    assert all(torch.equal(*pair) for pair in zip(tensors_of(moved), tensors_of(good), strict=True))


def test_a_rollout_cannot_be_patched() -> None:
    with pytest.raises(FrozenInstanceError):
        rollout().rewards = torch.zeros(5, 3)  # type: ignore[misc]


def test_what_cannot_act_is_neither_a_policy_nor_an_agent() -> None:
    assert not isinstance(object(), Policy | Agent)
