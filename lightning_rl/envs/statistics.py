"""Return and length of every episode, in the game's own rewards."""

from collections import deque
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from numpy.typing import NDArray

from lightning_rl.envs.wrapper import ResumableVectorWrapper
from lightning_rl.types import ResumableVectorEnv, State

RECENT_EPISODES = 100
"""Episodes in the running means, as OpenAI baselines log them (ppo2.py, `epinfobuf = deque(maxlen=100)`)."""


class EpisodeStatistics(ResumableVectorWrapper):
    """Counts the return and the length of every open episode and remembers the last finished ones.

    Each step adds to `info`: `episode_return` (float64, env units) and `episode_length` (int64, env steps) of the
    episode that this step ended, 0 elsewhere; and `raw_rewards` (float32), the rewards before any wrapper scaled them,
    which are what the returns are summed from.

    Args:
        env: The environment to watch.

    Reference:
        openai/baselines, bench/monitor.py, `Monitor`
    """

    def __init__(self, env: ResumableVectorEnv) -> None:
        super().__init__(env)
        self._returns = np.zeros(env.num_envs)
        self._lengths = np.zeros(env.num_envs, dtype=np.int64)
        self._recent: deque[tuple[float, int]] = deque(maxlen=RECENT_EPISODES)

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
        self._recent.extend(zip(self._returns[ended].tolist(), self._lengths[ended].tolist(), strict=True))
        self._returns[ended] = 0.0
        self._lengths[ended] = 0

    def metrics(self) -> dict[str, float]:
        """`episode/return` and `episode/length`, means over the last finished episodes; empty before the first."""
        if not self._recent:
            return {}
        episode_return, episode_length = np.mean(np.array(self._recent), axis=0).tolist()
        return {"episode/return": episode_return, "episode/length": episode_length}

    def _own_state(self) -> State:
        return {
            "returns": torch.from_numpy(self._returns.copy()),
            "lengths": torch.from_numpy(self._lengths.copy()),
            "recent_returns": torch.tensor([episode[0] for episode in self._recent], dtype=torch.float64),
            "recent_lengths": torch.tensor([episode[1] for episode in self._recent], dtype=torch.int64),
        }

    def _set_own_state(self, state: State) -> None:
        self._returns = state["returns"].numpy().copy()
        self._lengths = state["lengths"].numpy().copy()
        recent = zip(state["recent_returns"].tolist(), state["recent_lengths"].tolist(), strict=True)
        self._recent = deque(recent, maxlen=RECENT_EPISODES)
