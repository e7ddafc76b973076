"""Episodes that were played, played again."""

from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from lightning_rl.data.evaluation_dataset import Watcher
from lightning_rl.envs.statistics import EpisodeStatistics
from lightning_rl.protocols import ResumableVectorEnv
from lightning_rl.runs.episodes_file import PlayedEpisode


@runtime_checkable
class ReplaysEpisodes(Protocol):
    """A data module whose games can begin where an episode of theirs began."""

    def open_episode(self, episode: PlayedEpisode) -> ResumableVectorEnv:
        """One game at the beginning of the episode.

        Raises:
            ValueError: it is not said where it began.
        """


class Replayed(NamedTuple):
    """What came of the recorded actions: return, env steps, and whether the episode ended with the last of them."""

    episode_return: float
    length: int
    is_over: bool


def replay(data: ReplaysEpisodes, episode: PlayedEpisode, *, watcher: Watcher | None = None) -> Replayed:
    """Plays an episode's actions from where it began.

    Args:
        data: builds the game.
        episode: what was played.
        watcher: is shown every frame on which an action was taken.

    Returns:
        What came of it, which is what was recorded unless the games have changed.

    Raises:
        ValueError: the game has no such action, or it is not said where the episode began.
    """
    env = EpisodeStatistics(data.open_episode(episode))
    try:
        obs, _ = env.reset()
        for action in episode.actions:
            if watcher is not None:
                watcher(obs, np.ones(1, dtype=np.bool_))
            obs, _, terminated, truncated, info = env.step(np.array([action]))
            if (terminated | truncated).any():
                return Replayed(float(info["episode_return"][0]), int(info["episode_length"][0]), is_over=True)
        state = env.get_state()
        return Replayed(float(state["returns"][0]), int(state["lengths"][0]), is_over=False)
    finally:
        env.close()
