from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lightning_rl.distributed.running_moments import RunningMoments
from lightning_rl.envs.normalize import ReturnScaling, RewardClipping
from lightning_rl.protocols import ResumableVectorEnv
from tests.support.toys import CountingVectorEnv, ToyVectorEnv, TruncatingVectorEnv

OBS_SHAPE = (2, 2, 3)


class ScriptedVectorEnv(ToyVectorEnv):
    """Pays `rewards[t]` and ends episodes at `terminated[t]`, whatever is done."""

    def __init__(self, rewards: list[list[float]], terminated: list[list[bool]]) -> None:
        super().__init__(len(rewards[0]), OBS_SHAPE, 15)
        self._script = list(zip(rewards, terminated, strict=True))

    def _obs(self) -> NDArray[np.uint8]:
        return np.zeros((self.num_envs, *OBS_SHAPE), dtype=np.uint8)

    def _act(self, actions: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        rewards, terminated = self._script.pop(0)
        return np.array(rewards), np.array(terminated)


def counting(*episode_lengths: int) -> CountingVectorEnv:
    return CountingVectorEnv(len(episode_lengths), episode_lengths, obs_shape=OBS_SHAPE)


def played(env: ResumableVectorEnv, num_steps: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scaled and raw rewards over `num_steps` of random actions, time first."""
    actions = np.random.default_rng(seed).integers(15, size=(num_steps, env.num_envs))
    steps = [env.step(a) for a in actions]
    return np.array([step[1] for step in steps]), np.array([step[4]["raw_rewards"] for step in steps])


def defined(
    rewards: NDArray[Any], ended: NDArray[Any], gamma: float, max_abs_reward: float, epsilon: float
) -> NDArray[Any]:
    """The scaled rewards from their definition: all returns so far, weighted once, moments by numpy."""
    returns, seen, scaled = np.zeros(rewards.shape[1]), [], []
    for reward, end in zip(rewards.astype(np.float64), ended, strict=True):
        returns = returns * gamma + reward
        seen.extend(returns.tolist())
        # baselines begin with a pseudo-observation of weight 1e-4, mean 0 and variance 1
        weight = np.array([1e-4] + [1.0] * len(seen))
        values = np.array([0.0, *seen])
        mean = np.average(values, weights=weight)
        variance = np.average((values - mean) ** 2, weights=weight) + 1e-4 / weight.sum()
        scaled.append(np.clip(reward / np.sqrt(variance + epsilon), -max_abs_reward, max_abs_reward))
        returns = np.where(end, 0.0, returns)
    return np.array(scaled)


def test_openai_baselines_numbers_are_reproduced() -> None:
    env = ReturnScaling(
        ScriptedVectorEnv(
            rewards=[[1, 0], [0, 10], [0, 0], [5, 0]],
            terminated=[[False, False], [False, True], [False, False], [True, False]],
        )
    )

    scaled, _ = played(env, 4)

    # baselines' VecNormalize(ob=False) on these rewards, printed to six decimals
    assert scaled == pytest.approx(np.array([[1.9998, 0], [0, 2.461095], [0, 0], [1.460653, 0]]), abs=5e-6)
    assert scaled.dtype == np.float32


@pytest.mark.parametrize(
    ("gamma", "max_abs_reward", "epsilon"),
    [(0.99, 10.0, 1e-8), (0.9, 10.0, 1e-8), (0.99, 0.8, 1e-8), (0.99, 10.0, 5e3)],
)
def test_scaled_rewards_match_their_definition(gamma: float, max_abs_reward: float, epsilon: float) -> None:
    env = ReturnScaling(counting(3, 5), gamma=gamma, max_abs_reward=max_abs_reward, epsilon=epsilon)

    scaled, raw = played(env, 40)

    ended = np.array([[(t + 1) % 3 == 0, (t + 1) % 5 == 0] for t in range(40)])
    expected = defined(raw, ended, gamma, max_abs_reward, epsilon)
    np.testing.assert_allclose(scaled, expected, rtol=2e-6)


def test_a_return_begins_anew_where_time_has_run_out() -> None:
    truncating = TruncatingVectorEnv(2, (3, 5), obs_shape=OBS_SHAPE)

    np.testing.assert_array_equal(played(ReturnScaling(truncating), 20), played(ReturnScaling(counting(3, 5)), 20))


def test_rewards_are_clipped_on_both_sides() -> None:
    # after many tiny returns a large one is many deviations, which only the bound keeps in range
    script = [[0.001, -0.001]] * 400 + [[5.0, 0.0], [0.0, -5.0]]
    env = ReturnScaling(ScriptedVectorEnv(script, [[True, True]] * 402))

    scaled, _ = played(env, 402)

    assert scaled[400:].tolist() == [[10.0, 0.0], [0.0, -10.0]]


def test_raw_rewards_stay_as_the_game_gave_them() -> None:
    plain = counting(3, 5)
    actions = np.random.default_rng(0).integers(15, size=(20, 2))
    expected = np.array([plain.step(a)[1] for a in actions])

    scaled, raw = played(ReturnScaling(counting(3, 5)), 20)

    np.testing.assert_array_equal(raw, expected)
    assert not np.array_equal(scaled, expected)


def test_raw_rewards_of_an_inner_wrapper_are_kept() -> None:
    _, raw = played(ReturnScaling(ReturnScaling(counting(3, 5))), 20)

    np.testing.assert_array_equal(raw, played(ReturnScaling(counting(3, 5)), 20)[1])


def test_a_restored_wrapper_scales_as_if_it_had_never_stopped(tmp_path: Path) -> None:
    env, other = ReturnScaling(counting(4, 7)), ReturnScaling(counting(4, 7))
    played(env, 13)
    torch.save(env.get_state(), tmp_path / "state.pt")

    played(other, 50, seed=3)
    obs = other.set_state(torch.load(tmp_path / "state.pt", weights_only=True))

    np.testing.assert_array_equal(obs, env.reset()[0])
    np.testing.assert_array_equal(played(other, 30, seed=1), played(env, 30, seed=1))


def test_a_restored_wrapper_agrees_from_where_it_was_saved() -> None:
    env, other = ReturnScaling(counting(4, 7)), ReturnScaling(counting(4, 7))
    played(env, 13)
    played(other, 50, seed=3)
    saved = env.get_state()["moments"]

    other.set_state(env.get_state())
    other.sync_statistics(lambda own: own)

    assert other.get_state()["moments"] == pytest.approx(saved, rel=1e-12)


def _told(seen: list[RunningMoments], own: RunningMoments) -> RunningMoments:
    seen.append(own)
    return own


def _heard(other: RunningMoments, _own: RunningMoments) -> RunningMoments:
    return other


def test_ranks_that_agree_scale_as_one_process_with_all_environments_would() -> None:
    """Up to what the others have seen since they last agreed."""
    halves = [ReturnScaling(counting(3, 5)), ReturnScaling(counting(2, 7))]
    whole = ReturnScaling(counting(3, 5, 2, 7))
    actions = np.random.default_rng(0).integers(15, size=(30, 4))
    for step, chosen in enumerate(actions, start=1):
        for half, columns in zip(halves, (chosen[:2], chosen[2:]), strict=True):
            half.step(columns)
        whole.step(chosen)
        if step % 10 == 0:
            seen: list[RunningMoments] = []
            for half in halves:  # first each tells, then each hears
                half.sync_statistics(partial(_told, seen))
            halves[0].sync_statistics(partial(_heard, seen[1]))
            halves[1].sync_statistics(partial(_heard, seen[0]))
            first, second = (RunningMoments(*half.get_state()["moments"]) for half in halves)
            expected = RunningMoments(*whole.get_state()["moments"])
            assert first == pytest.approx(expected, rel=1e-9)
            assert second == pytest.approx(expected, rel=1e-9)
            assert expected.weight == pytest.approx(4 * step, abs=1e-3)


def test_a_saved_state_is_left_alone_by_later_steps() -> None:
    env = ReturnScaling(counting(4, 7))
    played(env, 3)
    state = env.get_state()
    returns, moments = state["returns"].clone(), list(state["moments"])

    played(env, 2)

    assert torch.equal(state["returns"], returns)
    assert state["moments"] == moments


def test_clipped_rewards_are_bounded_on_both_sides_and_kept_as_they_were() -> None:
    rewards = [[0.5, -3.0], [20.0, -0.25]]
    env = RewardClipping(ScriptedVectorEnv(rewards, [[False, False]] * 2))

    clipped, raw = played(env, 2)

    assert clipped.tolist() == [[0.5, -1.0], [1.0, -0.25]]
    assert raw.tolist() == rewards
    assert clipped.dtype == np.float32


def test_clipping_remembers_nothing_but_the_environment() -> None:
    env, other = RewardClipping(counting(3, 5)), RewardClipping(counting(3, 5))
    played(env, 4)

    other.set_state(env.get_state())

    np.testing.assert_array_equal(played(other, 6), played(env, 6))
