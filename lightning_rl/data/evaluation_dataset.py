"""Episodes for judging a policy: a fixed number per environment, on environments that training never sees."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from numpy.typing import NDArray
from torch.utils.data import IterableDataset

from lightning_rl.data.episode_log import EpisodeLog
from lightning_rl.protocols import Policy, ResumableVectorEnv
from lightning_rl.types import ActorOutput, Episodes, RecurrentInputs


class UniformPolicy:
    """The policy that takes every action with equal probability: a baseline.

    Args:
        num_actions: actions of the environment.
    """

    def __init__(self, num_actions: int) -> None:
        self._num_actions = num_actions

    def act(
        self,
        obs: UInt8[NDArray[Any], "B H W C"],
        generator: torch.Generator,
        *,
        recurrent_inputs: RecurrentInputs | None = None,  # unused: it has no memory
        greedy: bool = False,  # unused: it has no preference
    ) -> ActorOutput:
        """Uniform actions."""
        num_envs = len(obs)
        return ActorOutput(
            actions=torch.randint(self._num_actions, (num_envs,), generator=generator),
            logits=_zeros(num_envs, self._num_actions),
            values=_zeros(num_envs, 1),
        )


_zeros = cache(torch.zeros)  # allocating them takes longer than drawing the actions


Watcher = Callable[[UInt8[NDArray[Any], "B H W C"], Bool[NDArray[Any], "B"]], None]
"""Sees the frames that the policy acts on, and which environments still play."""


class EvaluationDataset(IterableDataset[Episodes]):
    """One batch: the episodes that a policy plays on one level set.

    Counting whatever finishes within a time favors short episodes, so each environment plays the same number. With
    `env_steps` that bias is accepted, as in the papers' budgets: all environments play until so many steps are spent,
    and only whole episodes count.

    The environments and the random stream are new in every pass, so two evaluations of one policy are equal, and
    none changes training.

    Args:
        level_set: name of the levels, for reports.
        make_env: builds the environments, wrapped by `EpisodeStatistics`.
        policy: plays.
        episodes_per_env: episodes that count, in each environment.
        seed: of the stream that samples actions.
        env_steps: budget of env steps over all environments, instead of `episodes_per_env`.
        greedy: take the most likely actions.
        watcher: is shown every frame.
    """

    def __init__(
        self,
        level_set: str,
        make_env: Callable[[], ResumableVectorEnv],
        policy: Policy,
        *,
        episodes_per_env: int,
        seed: int,
        env_steps: int | None = None,
        greedy: bool = False,
        watcher: Watcher | None = None,
    ) -> None:
        self._level_set = level_set
        self._make_env = make_env
        self._policy = policy
        self._episodes_per_env = episodes_per_env
        self._seed = seed
        self._env_steps = env_steps
        self._greedy = greedy
        self._watcher = watcher

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Episodes]:
        env = self._make_env()
        try:
            yield self._played(env)
        finally:
            env.close()

    def _played(self, env: ResumableVectorEnv) -> Episodes:
        generator = torch.Generator().manual_seed(self._seed)
        obs, info = env.reset()
        log = EpisodeLog(env.num_envs, info)
        finished = np.zeros(env.num_envs, dtype=np.int64)
        playing = np.ones(env.num_envs, dtype=bool)
        actions = np.zeros(env.num_envs, dtype=np.int64)
        recurrent_inputs = RecurrentInputs.initial(env.num_envs)
        steps = 0
        while playing.any():
            if self._watcher is not None:
                self._watcher(obs, playing)
            # all environments step together, but the policy acts for those that still play only
            output = self._policy.act(obs[playing], generator, recurrent_inputs=recurrent_inputs, greedy=self._greedy)
            actions[playing] = output.actions.numpy()
            obs, rewards, terminated, truncated, info = env.step(actions)
            ended = terminated | truncated
            recurrent_inputs = output.next_inputs(rewards[playing], ended[playing])
            ended &= playing
            log.add(actions, ended, info)
            finished += ended
            steps += env.num_envs
            if self._env_steps is None:
                recurrent_inputs = recurrent_inputs.rows(torch.from_numpy((finished < self._episodes_per_env)[playing]))
                playing = finished < self._episodes_per_env
            elif steps >= self._env_steps:
                break
        return log.episodes(self._level_set)
