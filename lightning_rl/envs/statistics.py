"""Return and length of every episode, in the game's own rewards."""

from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from numpy.typing import NDArray

from lightning_rl.envs.wrapper import ResumableVectorWrapper
from lightning_rl.protocols import ResumableVectorEnv
from lightning_rl.types import State

RECENT_EPISODES = 100
"""Episodes in the running means, as OpenAI baselines log them (ppo2.py, `epinfobuf = deque(maxlen=100)`)."""


class RecentEpisodes:
    """Return and length of the last `RECENT_EPISODES` finished episodes."""

    def __init__(self) -> None:
        self._episodes: deque[tuple[float, int]] = deque(maxlen=RECENT_EPISODES)

    def add(self, episodes: Iterable[tuple[float, int]]) -> None:
        """Remembers more, in the order in which they ended."""
        self._episodes.extend(episodes)

    def last(self, number: int) -> list[tuple[float, int]]:
        """The newest `number` of them, or as many as there are."""
        return list(self._episodes)[max(0, len(self._episodes) - number) :]

    def metrics(self) -> dict[str, float]:
        """`episode/return` and `episode/length`, means over the episodes; empty before the first."""
        if not self._episodes:
            return {}
        episode_return, episode_length = np.mean(np.array(self._episodes), axis=0).tolist()
        return {"episode/return": episode_return, "episode/length": episode_length}

    def state_dict(self) -> State:
        """The episodes."""
        return {
            "recent_returns": torch.tensor([episode[0] for episode in self._episodes], dtype=torch.float64),
            "recent_lengths": torch.tensor([episode[1] for episode in self._episodes], dtype=torch.int64),
        }

    def load_state_dict(self, state: State) -> None:
        """Remembers the episodes of a saved state instead."""
        self._episodes.clear()
        self.add(zip(state["recent_returns"].tolist(), state["recent_lengths"].tolist(), strict=True))


class EpisodeStatistics(ResumableVectorWrapper):
    """Counts the return and the length of every open episode and remembers the last finished ones.

    Each step adds to `info`: `episode_return` (float64, env units) and `episode_length` (int64, env steps) of the
    episode that this step ended, 0 elsewhere; and `raw_rewards` (float32), the rewards before any wrapper scaled them,
    which are what the returns are summed from.

    Args:
        env: The environment to watch.

    Attributes:
        recent: The last finished episodes.
        num_finished: Episodes finished since this object was made.

    Reference:
        openai/baselines, bench/monitor.py, `Monitor`
    """

    def __init__(self, env: ResumableVectorEnv) -> None:
        super().__init__(env)
        self._returns = np.zeros(env.num_envs)
        self._lengths = np.zeros(env.num_envs, dtype=np.int64)
        self.recent = RecentEpisodes()
        self.num_finished = 0

    def step(
        self, actions: Int64[NDArray[Any], "B"]
    ) -> tuple[
        UInt8[NDArray[Any], "B H W C"],
        Float32[NDArray[Any], "B"],
        Bool[NDArray[Any], "B"],
        Bool[NDArray[Any], "B"],
        dict[str, Any],
    ]:
        """One step of the environment inside, with `episode_return`, `episode_length`, `raw_rewards` in `info`."""
        obs, rewards, terminated, truncated, info = self._inner.step(actions)
        self._returns += info.setdefault("raw_rewards", rewards)
        self._lengths += 1
        ended = terminated | truncated
        info["episode_return"] = np.where(ended, self._returns, 0.0)
        info["episode_length"] = np.where(ended, self._lengths, 0)
        if ended.any():
            self._close_episodes(ended)
        return obs, rewards, terminated, truncated, info

    def _close_episodes(self, ended: Bool[NDArray[Any], "B"]) -> None:
        self.recent.add(zip(self._returns[ended].tolist(), self._lengths[ended].tolist(), strict=True))
        self.num_finished += int(ended.sum())
        self._returns[ended] = 0.0
        self._lengths[ended] = 0

    def metrics(self) -> dict[str, float]:
        """`episode/return` and `episode/length`, means over the last finished episodes; empty before the first."""
        return self.recent.metrics()

    def _own_state(self) -> State:
        return {
            "returns": torch.from_numpy(self._returns.copy()),
            "lengths": torch.from_numpy(self._lengths.copy()),
            **self.recent.state_dict(),
        }

    def _set_own_state(self, state: State) -> None:
        self._returns = state["returns"].numpy().copy()
        self._lengths = state["lengths"].numpy().copy()
        self.recent.load_state_dict(state)
