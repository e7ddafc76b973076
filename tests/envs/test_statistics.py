from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lightning_rl.envs.normalize import ReturnScaling
from lightning_rl.envs.statistics import EpisodeStatistics
from lightning_rl.protocols import ResumableVectorEnv
from tests.support.toys import ConstantRewardVectorEnv, CountingVectorEnv

OBS_SHAPE = (2, 2, 3)
Outcome = tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]


def counting(*episode_lengths: int) -> CountingVectorEnv:
    return CountingVectorEnv(len(episode_lengths), episode_lengths, obs_shape=OBS_SHAPE)


def played(env: ResumableVectorEnv, num_steps: int, action: int = 1) -> dict[str, NDArray[Any]]:
    """`info` over `num_steps` of one action, time first."""
    infos = [env.step(np.full(env.num_envs, action))[4] for _ in range(num_steps)]
    return {key: np.array([info[key] for info in infos]) for key in infos[0]}


def test_returns_and_lengths_are_those_of_the_episodes_that_ended() -> None:
    env = EpisodeStatistics(counting(2, 3))

    info = played(env, 6)

    # an action 1 at steps 0, 1, 2 of an episode earns 1, 101, 201
    assert info["episode_return"].T.tolist() == [[0, 102, 0, 102, 0, 102], [0, 0, 303, 0, 0, 303]]
    assert info["episode_length"].T.tolist() == [[0, 2, 0, 2, 0, 2], [0, 0, 3, 0, 0, 3]]
    assert [str(info[key].dtype) for key in ("episode_return", "episode_length")] == ["float64", "int64"]


def test_metrics_are_means_over_finished_episodes_and_missing_before_the_first() -> None:
    env = EpisodeStatistics(counting(2, 3))

    assert env.metrics() == {}
    played(env, 1)
    assert env.metrics() == {}
    played(env, 5)
    assert env.metrics() == pytest.approx({"episode/return": (3 * 102 + 2 * 303) / 5, "episode/length": 12 / 5})


def test_metrics_forget_all_but_the_last_hundred_episodes() -> None:
    env = EpisodeStatistics(counting(1))

    played(env, 30, action=9)
    played(env, 99, action=2)
    assert env.metrics()["episode/return"] == pytest.approx((99 * 2 + 9) / 100)
    played(env, 1, action=2)
    assert env.metrics()["episode/return"] == 2


def test_truncated_episodes_count_as_finished() -> None:
    class Truncating(ConstantRewardVectorEnv):
        def step(self, actions: NDArray[np.int64]) -> Outcome:
            obs, rewards, terminated, truncated, info = super().step(actions)
            return obs, rewards, terminated, truncated | (self.steps % 4 == 0), info

    env = EpisodeStatistics(Truncating(1, obs_shape=OBS_SHAPE))

    assert played(env, 8)["episode_length"].T.tolist() == [[0, 0, 0, 4, 0, 0, 0, 4]]


def test_small_rewards_over_long_episodes_lose_nothing_to_rounding() -> None:
    class Hundredths(ConstantRewardVectorEnv):
        def step(self, actions: NDArray[np.int64]) -> Outcome:
            obs, rewards, terminated, truncated, info = super().step(actions)
            return obs, rewards * np.float32(0.01), terminated | (self.steps == 2_000), truncated, info

    info = played(EpisodeStatistics(Hundredths(1, obs_shape=OBS_SHAPE)), 2_000)

    # summed in float64, the sum is off by the rounding of 0.01 itself and no more; in float32 it would drift
    assert info["episode_return"][-1, 0] == pytest.approx(2_000 * float(np.float32(0.01)), rel=1e-12)


def test_returns_are_of_raw_rewards_wherever_the_scaling_is() -> None:
    outside = EpisodeStatistics(ReturnScaling(counting(2, 3)))
    inside = ReturnScaling(EpisodeStatistics(counting(2, 3)))

    expected = played(EpisodeStatistics(counting(2, 3)), 12)

    for info in (played(outside, 12), played(inside, 12)):
        for key in ("episode_return", "episode_length", "raw_rewards"):
            np.testing.assert_array_equal(info[key], expected[key])


def test_a_restored_wrapper_counts_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    env, other = EpisodeStatistics(counting(4, 7)), EpisodeStatistics(counting(4, 7))
    played(env, 13, action=3)
    torch.save(env.get_state(), tmp_path / "state.pt")

    played(other, 5)
    obs = other.set_state(torch.load(tmp_path / "state.pt", weights_only=True))

    np.testing.assert_array_equal(obs, env.reset()[0])
    assert other.metrics() == env.metrics() != {}
    expected, actual = played(env, 20), played(other, 20)
    for key in expected:
        np.testing.assert_array_equal(actual[key], expected[key])
    assert other.metrics() == env.metrics()


def test_a_saved_state_is_left_alone_by_later_steps() -> None:
    env = EpisodeStatistics(counting(4, 7))
    played(env, 3)
    state = env.get_state()

    played(env, 2)

    assert state["lengths"].tolist() == [3, 3]


def test_the_state_of_other_wrappers_is_refused() -> None:
    env = EpisodeStatistics(counting(4))

    with pytest.raises(ValueError, match=r"a state of EpisodeStatistics has env, lengths, .*, found env, moments"):
        env.set_state(ReturnScaling(counting(4)).get_state())


def test_a_state_refused_inside_changes_nothing_outside() -> None:
    env = EpisodeStatistics(counting(4, 7))
    played(env, 3)

    with pytest.raises(ValueError, match="num_envs 3"):
        env.set_state(EpisodeStatistics(counting(4, 7)).get_state() | {"env": counting(4, 7, 9).get_state()})
    with pytest.raises(
        ValueError, match=r"EpisodeStatistics\.returns must be a float64 tensor of shape \(2\), found a .* \(3\)"
    ):
        env.set_state(EpisodeStatistics(counting(4, 7, 9)).get_state())

    assert played(env, 1)["episode_length"].tolist() == [[4, 0]]


def test_closing_the_wrapper_closes_the_environment() -> None:
    inner = counting(4)

    EpisodeStatistics(inner).close()

    assert inner.closed
