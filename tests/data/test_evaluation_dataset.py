from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lightning_rl.data.evaluation_dataset import EvaluationDataset, UniformPolicy
from lightning_rl.envs.statistics import EpisodeStatistics
from lightning_rl.protocols import ResumableVectorEnv
from lightning_rl.types import ActorOutput, Episodes, RecurrentInputs
from tests.support.policies import PixelPolicy
from tests.support.toys import (
    ConstantRewardVectorEnv,
    CountingVectorEnv,
    IdentityVectorEnv,
    ToyVectorEnv,
    TruncatingVectorEnv,
)

OBS_SHAPE = (4, 6, 3)
NUM_ACTIONS = 5
LENGTHS = (2, 3, 5)


class Arena:
    """Builds environments, and keeps them in `built` to look at."""

    def __init__(self) -> None:
        self.built: list[ToyVectorEnv] = []

    def counting(self) -> ResumableVectorEnv:
        return self._kept(CountingVectorEnv(3, LENGTHS, obs_shape=OBS_SHAPE, num_actions=NUM_ACTIONS))

    def identity(self) -> ResumableVectorEnv:
        return self._kept(IdentityVectorEnv(3, episode_length=7, obs_shape=OBS_SHAPE, num_actions=NUM_ACTIONS))

    def endless(self) -> ResumableVectorEnv:
        return self._kept(ConstantRewardVectorEnv(3, obs_shape=OBS_SHAPE, num_actions=NUM_ACTIONS))

    def _kept(self, env: ToyVectorEnv) -> ResumableVectorEnv:
        self.built.append(env)
        return EpisodeStatistics(env)


class FailingPolicy(PixelPolicy):
    def act(
        self, obs: NDArray[Any], generator: torch.Generator, *, recurrent_inputs: Any = None, greedy: bool = False
    ) -> ActorOutput:
        raise ArithmeticError("no action")


def dataset_of(make_env: Any, policy: Any = None, *, seed: int = 0, **options: Any) -> EvaluationDataset:
    options = {"episodes_per_env": 1, "greedy": True} | options
    return EvaluationDataset("train_levels", make_env, policy or PixelPolicy(NUM_ACTIONS), seed=seed, **options)


def played(make_env: Any, policy: Any = None, *, seed: int = 0, **options: Any) -> Episodes:
    (episodes,) = dataset_of(make_env, policy, seed=seed, **options)
    return episodes


def returns_of(lengths: list[int]) -> list[float]:
    """What greedy actions earn in the counting environment: 100 · step + 4 in each step."""
    return [float(sum(100 * step + 4 for step in range(length))) for length in lengths]


def test_environments_of_different_lengths_play_the_same_number_of_episodes() -> None:
    episodes = played(Arena().counting, episodes_per_env=2)

    assert episodes.lengths.tolist() == [2, 3, 2, 5, 3, 5]  # in the order in which they end


def test_returns_are_those_of_the_episodes() -> None:
    episodes = played(Arena().counting, episodes_per_env=2)

    assert episodes.returns.tolist() == returns_of([2, 3, 2, 5, 3, 5])


def test_an_episode_ends_where_time_has_run_out() -> None:
    kinds = (TruncatingVectorEnv, CountingVectorEnv)
    cut, ended = (
        played(lambda kind=kind: EpisodeStatistics(kind(3, LENGTHS, obs_shape=OBS_SHAPE, num_actions=NUM_ACTIONS)))
        for kind in kinds
    )

    assert cut.returns.tolist() == ended.returns.tolist() == returns_of([2, 3, 5])
    assert cut.lengths.tolist() == [2, 3, 5]


def test_episodes_carry_the_name_of_their_levels_and_whether_each_was_solved() -> None:
    episodes = played(Arena().counting)

    assert episodes.level_set == "train_levels"
    assert episodes.level_complete is not None
    assert episodes.level_complete.tolist() == [True, True, True]


def test_a_budget_of_env_steps_counts_whole_episodes_only() -> None:
    episodes = played(Arena().counting, env_steps=21)  # seven steps of three environments

    assert episodes.lengths.tolist() == [2, 3, 2, 5, 2, 3]


@pytest.mark.parametrize(("env_steps", "num_steps"), [(20, 7), (21, 7), (22, 8)])
def test_a_budget_is_spent_to_the_end_and_at_most_one_step_further(env_steps: int, num_steps: int) -> None:
    policy = PixelPolicy(NUM_ACTIONS)

    played(Arena().counting, policy, env_steps=env_steps)

    assert [len(batch) for batch in policy.seen] == [3] * num_steps


def test_a_budget_in_which_nothing_ends_has_no_episodes() -> None:
    episodes = played(Arena().endless, env_steps=21)

    assert (episodes.returns.tolist(), episodes.lengths.tolist()) == ([], [])


def test_nobody_thinks_about_frames_of_environments_that_are_done() -> None:
    policy = PixelPolicy(NUM_ACTIONS)

    played(Arena().counting, policy)

    assert policy.seen == [[0, 0, 0], [1, 1, 1], [2, 2], [3], [4]]


class Numbered(CountingVectorEnv):
    """Pixels are the number of steps and twenty times that of the environment."""

    def _obs(self) -> NDArray[np.uint8]:
        offsets = 20 * np.arange(self.num_envs, dtype=np.uint8)
        return super()._obs() + offsets.reshape(-1, 1, 1, 1)


class Diary(PixelPolicy):
    """Its state is the pixel that it sees; it notes what it is told beside each frame."""

    def __init__(self) -> None:
        super().__init__(NUM_ACTIONS)
        self.told: list[tuple[list[int], RecurrentInputs]] = []

    def act(
        self, obs: NDArray[Any], generator: torch.Generator, *, recurrent_inputs: Any = None, greedy: bool = False
    ) -> ActorOutput:
        pixels = obs[:, 0, 0, 0].astype(np.float32)
        self.told.append((obs[:, 0, 0, 0].tolist(), recurrent_inputs))
        return replace(super().act(obs, generator, greedy=greedy), state=torch.from_numpy(pixels)[:, None])


def test_each_environment_is_told_its_own_past_though_others_are_done() -> None:
    diary = Diary()

    played(lambda: EpisodeStatistics(Numbered(3, LENGTHS, obs_shape=OBS_SHAPE, num_actions=NUM_ACTIONS)), diary)

    for (before, _), (pixels, told) in pairwise(diary.told):
        kept = [pixel for pixel in before if pixel + 1 in pixels]  # every environment counts from its own start
        assert [pixel + 1 for pixel in kept] == pixels
        assert told.state[:, 0].tolist() == kept
        assert told.previous_rewards.tolist() == [100.0 * (pixel % 20) + NUM_ACTIONS - 1 for pixel in kept]
    assert [len(pixels) for pixels, _ in diary.told] == [3, 3, 2, 1, 1]


def test_the_watcher_sees_every_frame_and_who_still_plays() -> None:
    frames: list[NDArray[Any]] = []
    playing: list[NDArray[Any]] = []

    def watch(obs: NDArray[Any], still: NDArray[Any]) -> None:
        frames.append(obs)
        playing.append(still)

    played(Arena().counting, watcher=watch)

    expected = np.array([[0, 0, 0], [1, 1, 1], [0, 2, 2], [1, 0, 3], [0, 1, 4]])
    np.testing.assert_array_equal(
        np.stack(frames), np.broadcast_to(expected[..., None, None, None], (5, 3, *OBS_SHAPE))
    )
    assert np.stack(playing).tolist() == [
        [True, True, True],
        [True, True, True],
        [False, True, True],
        [False, False, True],
        [False, False, True],
    ]


def test_the_same_policy_and_seed_play_the_same_episodes_on_every_pass() -> None:
    dataset = dataset_of(Arena().identity, episodes_per_env=11, greedy=False)

    (first,), (again,) = dataset, dataset

    assert torch.equal(first.returns, again.returns)


def test_another_seed_samples_other_actions() -> None:
    first, other = (played(Arena().identity, seed=seed, episodes_per_env=11, greedy=False) for seed in (0, 1))

    assert not torch.equal(first.returns, other.returns)


def test_greedy_reaches_the_policy() -> None:
    greedy, sampled = (played(Arena().counting, greedy=greedy).returns.tolist() for greedy in (True, False))

    assert greedy == returns_of([2, 3, 5])
    assert sampled != greedy


def test_one_pass_is_one_batch() -> None:
    dataset = dataset_of(Arena().counting)

    assert len(dataset) == len(list(dataset)) == 1


def test_nothing_is_built_before_the_batch_is_asked_for() -> None:
    arena = Arena()

    iter(dataset_of(arena.counting))

    assert arena.built == []


def test_environments_are_built_for_each_pass_and_closed_after_it() -> None:
    arena = Arena()
    dataset = dataset_of(arena.counting)

    list(dataset)
    list(dataset)

    assert [env.closed for env in arena.built] == [True, True]


def test_environments_are_closed_when_the_iterator_is_dropped_after_its_batch() -> None:
    arena = Arena()

    next(iter(dataset_of(arena.counting)))

    assert [env.closed for env in arena.built] == [True]


def test_environments_are_closed_when_the_policy_fails() -> None:
    arena = Arena()

    with pytest.raises(ArithmeticError, match="no action"):
        list(dataset_of(arena.counting, FailingPolicy(NUM_ACTIONS)))

    assert [env.closed for env in arena.built] == [True]


def test_uniform_actions_cover_all_actions_equally() -> None:
    obs = np.zeros((5000, 1, 1, 1), dtype=np.uint8)

    output = UniformPolicy(NUM_ACTIONS).act(obs, torch.Generator().manual_seed(0))

    shares = output.actions.bincount() / 5000
    torch.testing.assert_close(shares, torch.full((NUM_ACTIONS,), 0.2), rtol=0, atol=0.02)  # over three standard errors
    assert torch.equal(output.logits.softmax(-1), torch.full((5000, NUM_ACTIONS), 0.2))


def test_uniform_actions_come_from_the_generator_alone() -> None:
    obs = np.zeros((31, 1, 1, 1), dtype=np.uint8)
    first = UniformPolicy(NUM_ACTIONS).act(obs, torch.Generator().manual_seed(0)).actions
    torch.manual_seed(1234)

    assert torch.equal(UniformPolicy(NUM_ACTIONS).act(obs, torch.Generator().manual_seed(0)).actions, first)
