"""A world model as an environment."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_rl.envs.imagined import ImaginedVectorEnv, Outcomes
from lightning_rl.protocols import ResumableVectorEnv, WorldModel
from lightning_rl.types import ImaginedStep

B, H, W, K, A = 5, 2, 3, 4, 7


class Counting:
    """Adds one to the newest frame and its own state; the reward is the action; action 6 ends the episode."""

    def begin(self, obs: Tensor) -> Tensor:
        return obs[:, None, :, :, -1].float()

    def imagine(self, obs: Tensor, actions: Tensor, generator: torch.Generator, state: Tensor | None = None) -> Any:
        return ImaginedStep(
            frames=obs[..., -3:] + 1,
            rewards=actions.float(),
            expected_rewards=actions / 2,
            end_probabilities=torch.where(actions == 6, 0.9, 0.3),
            state=None if state is None else state + 1,
        )


def starts(number: int, generator: torch.Generator) -> Tensor:
    """Stacks whose frames count up to a random number that is a multiple of ten."""
    newest = torch.randint(1, 20, (number, 1, 1, 1), generator=generator) * 10
    ages = torch.arange(K).repeat_interleave(3) - (K - 1)
    return (newest + ages).expand(number, H, W, 3 * K).to(torch.uint8).contiguous()


def env(seed: int = 0, *, num_envs: int = B, outcomes: Outcomes = "likeliest") -> ImaginedVectorEnv:
    generator = torch.Generator().manual_seed(seed)
    return ImaginedVectorEnv(
        Counting(), starts, num_envs=num_envs, num_actions=A, generator=generator, outcomes=outcomes
    )


def newest(obs: NDArray[np.uint8]) -> list[int]:
    return [int(value) for value in obs[:, 0, 0, -1]]


def test_it_is_an_environment_whose_state_can_be_kept() -> None:
    assert isinstance(env(), ResumableVectorEnv)
    assert isinstance(Counting(), WorldModel)


def test_what_the_model_predicts_is_the_newest_of_the_stack() -> None:
    world = env()
    first, _ = world.reset()
    first = first.copy()

    obs, rewards, terminated, truncated, _ = world.step(np.array([0, 1, 2, 3, 4]))

    assert np.array_equal(obs[..., :-3], first[..., 3:])
    assert np.array_equal(obs[..., -3:], first[..., -3:] + 1)
    assert rewards.tolist() == [0, 1, 2, 3, 4]
    assert not terminated.any()
    assert not truncated.any()


def test_an_episode_that_ends_starts_anew_from_real_frames_and_the_others_go_on() -> None:
    world = env()
    before = newest(world.reset()[0])

    obs, _, terminated, _, _ = world.step(np.array([0, 6, 0, 6, 0]))

    assert terminated.tolist() == [False, True, False, True, False]
    assert all(newest(obs)[row] == before[row] + 1 for row in (0, 2, 4))
    assert all(newest(obs)[row] % 10 == 0 for row in (1, 3))


def test_expected_outcomes_are_the_mean_reward_and_ends_by_chance() -> None:
    world = env(num_envs=4000, outcomes="expected")
    world.reset()
    actions = np.repeat([3, 6], 2000)

    _, rewards, terminated, _, _ = world.step(actions)

    assert rewards.tolist() == (actions / 2).tolist()
    assert terminated[:2000].mean() == pytest.approx(0.3, abs=0.04)
    assert terminated[2000:].mean() == pytest.approx(0.9, abs=0.03)


def test_the_models_state_follows_its_environment() -> None:
    world = env()
    world.reset()
    for actions in ([0, 6, 0, 0, 0], [0, 0, 0, 6, 0], [0, 0, 0, 0, 0]):
        obs, *_ = world.step(np.array(actions))

    state = world.get_state()["state"]

    assert state[:, 0, 0, 0].tolist() == newest(obs)


def test_a_reset_starts_all_of_them_anew() -> None:
    world = env()
    world.reset()
    world.step(np.zeros(B, dtype=np.int64))

    obs, _ = world.reset()

    assert all(value % 10 == 0 for value in newest(obs))


def test_the_first_reset_draws_nothing_that_was_drawn_already() -> None:
    one, other = env(), env()

    assert np.array_equal(one.reset()[0], other.set_state(other.get_state()))


def test_equal_streams_give_equal_play() -> None:
    one, other = env(3), env(3)
    actions = np.array([0, 6, 0, 0, 6])

    for world in (one, other):
        world.reset()
        world.step(actions)

    assert np.array_equal(one.step(actions)[0], other.step(actions)[0])


def test_a_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="draws from its generator, found seed 3"):
        env().reset(seed=3)
