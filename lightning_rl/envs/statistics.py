"""Return and length of every episode, in the game's own rewards."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import NDArray

from lightning_rl.envs.wrapper import ResumableVectorWrapper
from lightning_rl.protocols import EnvStep, ResumableVectorEnv

RECENT_EPISODES = 100
"""Episodes in the running means, as OpenAI baselines log them (ppo2.py, `epinfobuf = deque(maxlen=100)`)."""


@dataclass(kw_only=True)
class RecentEpisodes:
    """Return and length of the last `RECENT_EPISODES` finished episodes, in the order in which they ended."""

    recent_returns: Float64[NDArray[Any], "E"] = field(default_factory=partial(np.zeros, 0))
    recent_lengths: Int64[NDArray[Any], "E"] = field(default_factory=partial(np.zeros, 0, dtype=np.int64))

    def add(self, returns: Float64[NDArray[Any], "N"], lengths: Int64[NDArray[Any], "N"]) -> None:
        """Remembers more."""
        self.recent_returns = np.append(self.recent_returns, returns)[-RECENT_EPISODES:]
        self.recent_lengths = np.append(self.recent_lengths, lengths)[-RECENT_EPISODES:]

    def last(self, number: int) -> "RecentEpisodes":
        """The newest `number` of them, or as many as there are."""
        start = max(0, len(self.recent_returns) - number)
        return RecentEpisodes(recent_returns=self.recent_returns[start:], recent_lengths=self.recent_lengths[start:])

    def metrics(self) -> dict[str, float]:
        """`episode/return` and `episode/length`, means over the episodes; empty before the first."""
        if not len(self.recent_returns):
            return {}
        both = np.stack([self.recent_returns, self.recent_lengths], axis=1)
        episode_return, episode_length = np.mean(both, axis=0).tolist()
        return {"episode/return": episode_return, "episode/length": episode_length}


@dataclass(kw_only=True)
class EpisodeStatisticsState(RecentEpisodes):
    """Beside the finished episodes, the return and the length so far of the open ones."""

    returns: Float64[NDArray[Any], "B"]
    lengths: Int64[NDArray[Any], "B"]


class EpisodeStatistics(ResumableVectorWrapper[EpisodeStatisticsState]):
    """Counts the return and the length of every open episode and remembers the last finished ones.

    Each step adds to `info`: `episode_return` (float64, env units) and `episode_length` (int64, env steps) of the
    episode that this step ended, 0 elsewhere; and `raw_rewards` (float32), the rewards before any wrapper scaled them,
    which are what the returns are summed from.

    Args:
        env: the environment to watch.

    Attributes:
        num_finished: episodes finished since this object was made.

    Reference:
        openai/baselines, bench/monitor.py, `Monitor`
    """

    def __init__(self, env: ResumableVectorEnv) -> None:
        counts = {"returns": np.zeros(env.num_envs), "lengths": np.zeros(env.num_envs, dtype=np.int64)}
        super().__init__(env, EpisodeStatisticsState(**counts))
        self.num_finished = 0

    @property
    def recent(self) -> RecentEpisodes:
        """The last finished episodes."""
        return self._own

    def passed_on(self, step: EnvStep) -> EnvStep:
        """The step with `episode_return`, `episode_length`, `raw_rewards` in `info`."""
        obs, rewards, terminated, truncated, info = step
        own = self._own
        own.returns += info.setdefault("raw_rewards", rewards)
        own.lengths += 1
        ended = terminated | truncated
        info["episode_return"] = np.where(ended, own.returns, 0.0)
        info["episode_length"] = np.where(ended, own.lengths, 0)
        if ended.any():
            own.add(own.returns[ended], own.lengths[ended])
            self.num_finished += int(ended.sum())
            own.returns[ended] = 0.0
            own.lengths[ended] = 0
        return obs, rewards, terminated, truncated, info

    def metrics(self) -> dict[str, float]:
        """`episode/return` and `episode/length`, means over the last finished episodes; empty before the first."""
        return self.recent.metrics()
