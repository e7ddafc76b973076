"""What is kept of the episodes that are played side by side."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int64
from numpy.typing import NDArray

from lightning_rl.types import Episodes

_BEGINNINGS = {"level_seed": "level_seeds", "episode_start": "starts"}
"""What `info` may have of the beginning of each open episode, and what `Episodes` calls it."""


class EpisodeLog:
    """The episodes that have ended, in the order in which they did.

    Args:
        num_envs: environments that are played.
        info: of their `reset`.
    """

    def __init__(self, num_envs: int, info: dict[str, Any]) -> None:
        self._returns: list[float] = []
        self._lengths: list[int] = []
        self._complete: list[bool] = []
        self._actions: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)]
        self._open_since = {key: info[key].copy() for key in _BEGINNINGS if key in info}
        self._beginnings = {key: [value[:0]] for key, value in self._open_since.items()}
        self._taken: list[NDArray[np.int16]] = []  # of all environments, step by step
        self._first = np.zeros(num_envs, dtype=np.int64)  # step at which the open episodes began

    def add(self, actions: Int64[NDArray[Any], "B"], ended: Bool[NDArray[Any], "B"], info: dict[str, Any]) -> None:
        """Adds a step.

        Args:
            actions: of all environments.
            ended: episodes that ended in it and count.
            info: of the step, with what `EpisodeStatistics` tells.
        """
        self._taken.append(actions.astype(np.int16))
        if not ended.any():
            return
        self._returns += info["episode_return"][ended].tolist()
        self._lengths += info["episode_length"][ended].tolist()
        self._complete += info["level_complete"][ended].tolist() if "level_complete" in info else []
        for index in np.flatnonzero(ended):
            steps = self._taken[self._first[index] :]
            self._actions.append(np.array([step[index] for step in steps], dtype=np.int64))
        self._first[ended] = len(self._taken)
        for key, value in self._open_since.items():
            self._beginnings[key].append(value[ended])
            value[ended] = info[key][ended]

    def episodes(self, level_set: str) -> Episodes:
        """All that have ended."""
        beginnings = {_BEGINNINGS[key]: torch.from_numpy(np.concatenate(v)) for key, v in self._beginnings.items()}
        return Episodes(
            level_set=level_set,
            returns=torch.tensor(self._returns, dtype=torch.float64),
            lengths=torch.tensor(self._lengths, dtype=torch.int64),
            level_complete=torch.tensor(self._complete, dtype=torch.bool) if self._complete else None,
            actions=torch.from_numpy(np.concatenate(self._actions)),
            **beginnings,
        )
