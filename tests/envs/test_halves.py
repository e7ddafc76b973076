"""Two halves in turn: the same bits whatever the timing, and those of one whole where the games are the same."""

import time
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lightning_rl.data.collector import Collector
from lightning_rl.envs.halves import Halves, built_in
from lightning_rl.envs.normalize import ReturnScaling
from lightning_rl.envs.statistics import EpisodeStatistics
from lightning_rl.protocols import Policy
from lightning_rl.types import Rollout
from tests.support.impala_worlds import make_impala
from tests.support.toys import CountingVectorEnv
from tests.support.worlds import NUM_ACTIONS, NUM_STEPS, OBS_SHAPE, make_module

LENGTHS: tuple[int, ...] = (2, 3, 7, 4)


class Dawdling(CountingVectorEnv):
    """Takes its time at each step, and overwrites its frames as Procgen does."""

    def __init__(self, *args: Any, seconds: float = 0.0, **options: Any) -> None:
        super().__init__(*args, **options)
        self.seconds = seconds
        self._buffer: NDArray[np.uint8] | None = None

    def _obs(self) -> NDArray[np.uint8]:
        time.sleep(self.seconds)
        if self._buffer is None:
            self._buffer = super()._obs()
        self._buffer[...] = super()._obs()
        return self._buffer


def toy(rows: slice, seconds: float = 0.0) -> CountingVectorEnv:
    lengths = LENGTHS[rows]
    return Dawdling(len(lengths), lengths, obs_shape=OBS_SHAPE, num_actions=NUM_ACTIONS, seconds=seconds)


def halves(seconds: tuple[float, float] = (0.0, 0.0)) -> EpisodeStatistics:
    parts = zip((slice(0, 2), slice(2, 4)), seconds, strict=True)
    return EpisodeStatistics(ReturnScaling(Halves([toy(rows, own) for rows, own in parts])))


def whole() -> EpisodeStatistics:
    return EpisodeStatistics(ReturnScaling(toy(slice(0, 4))))


class Fixed:
    """Plays the same actions with any number of environments at once."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def act(self, obs: Any, generator: torch.Generator, *, recurrent_inputs: Any = None, greedy: bool = False) -> Any:
        return self.policy.act(obs, generator, recurrent_inputs=recurrent_inputs, greedy=True)


def rollouts(env: Any, policy: Any, number: int = 3) -> tuple[list[Rollout], Collector]:
    collector = Collector(env, num_steps=NUM_STEPS, seed=0)
    found = []
    for _ in range(number):
        rollout = collector.collect(policy)
        found.append(rollout.map_tensors(torch.clone))
    return found, collector


def assert_same(first: list[Rollout], second: list[Rollout]) -> None:
    for one, other in zip(first, second, strict=True):
        for a, b in zip(one.tensors(), other.tensors(), strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.parametrize("captures", [False, True])
def test_the_bits_do_not_depend_on_which_half_is_faster(captures: bool) -> None:
    policy = make_impala()
    policy.captures = captures
    found = []
    for seconds in ((0.0, 0.0), (0.004, 0.0), (0.0, 0.004)):
        collected, collector = rollouts(halves(seconds), policy)
        found.append(collected)
        collector.close()

    assert_same(found[0], found[1])
    assert_same(found[0], found[2])


@pytest.mark.parametrize("make", [make_module, make_impala])
def test_of_the_same_games_halves_collect_what_the_whole_does(make: Any) -> None:
    policy = Fixed(make())

    (together, one), (in_turn, other) = rollouts(whole(), policy), rollouts(halves(), policy)

    for first, second in zip(together, in_turn, strict=True):
        for name in ("obs", "actions", "rewards", "terminated"):
            assert torch.equal(getattr(first, name), getattr(second, name)), name
        torch.testing.assert_close(first.behavior_logits, second.behavior_logits)
        torch.testing.assert_close(first.recurrent_inputs.state, second.recurrent_inputs.state)
    assert one.metrics() == other.metrics()
    assert one.env_steps == other.env_steps == 3 * NUM_STEPS * len(LENGTHS)


def test_another_collector_goes_on_from_the_state_of_both_halves() -> None:
    policy = make_impala()
    expected, _ = rollouts(halves(), policy, number=4)
    _, stopped = rollouts(halves(), policy, number=2)

    resumed = Collector(halves(), num_steps=NUM_STEPS, seed=9)
    resumed.load_state_dict(stopped.state_dict())

    assert_same(expected[2:], [resumed.collect(policy).map_tensors(torch.clone) for _ in range(2)])
    with pytest.raises(ValueError, match="must be of first_half and second_half, found"):
        Halves([toy(slice(0, 2)), toy(slice(2, 4))]).set_state({"num_envs": 4})


def test_halves_have_a_seed_each_and_are_stepped_together_too() -> None:
    seeds: list[int] = []

    def build(number: int, seed: int) -> CountingVectorEnv:
        seeds.append(seed)
        return toy(slice(0, number))

    assert not isinstance(built_in(1, build, num_envs=4, seed=7), Halves)
    env = built_in(2, build, num_envs=4, seed=7)
    assert isinstance(env, Halves)
    assert seeds[0] == 7
    assert len(set(seeds)) == 3
    obs, rewards, terminated, _, info = env.step(np.array([1, 2, 3, 4]))
    assert rewards.tolist() == [1, 2, 3, 4]
    assert obs.shape == (4, *OBS_SHAPE)
    assert len(info["level_seed"]) == len(terminated) == 4
    with pytest.raises(RuntimeError, match="half 0 must act before"):
        env.observe(0)
    env.close()
