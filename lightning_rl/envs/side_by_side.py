"""Several games played side by side as one vector environment."""

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from jaxtyping import Int64, UInt8
from numpy.typing import NDArray

from lightning_rl.distributed.running_moments import RunningMoments
from lightning_rl.envs.statistics import EpisodeStatistics
from lightning_rl.errors import UsageError
from lightning_rl.protocols import EnvStep, ResumableVectorEnv
from lightning_rl.types import State


class SideBySide(VectorEnv[NDArray[Any], NDArray[Any], NDArray[Any]]):
    """One vector environment of several, whose rows are those of the first game, then those of the second, and so on.

    Whatever wraps a game's own environments, such as the scaling of its rewards, knows nothing of the other games.
    Episodes are counted for each game by itself.

    Args:
        games: the environments of each game, by its name.

    Attributes:
        rows: the rows of each game.

    Raises:
        UsageError: the games differ in their actions or their frames.
    """

    def __init__(self, games: Mapping[str, ResumableVectorEnv]) -> None:
        self.closed = True  # until the games fit together: gymnasium closes what is garbage-collected, also half-built
        self.games = {game: EpisodeStatistics(env) for game, env in games.items()}
        bounds = accumulate((env.num_envs for env in self.games.values()), initial=0)
        self.rows = {game: slice(*ends) for game, ends in zip(self.games, pairwise(bounds), strict=True)}
        spaces = self._shared_spaces()
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.num_envs = sum(env.num_envs for env in self.games.values())
        self.single_action_space, self.single_observation_space = spaces
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.closed = False

    def _shared_spaces(self) -> tuple[Any, Any]:
        """The space of one action and that of one frame, which all games have."""
        spaces = {game: (env.single_action_space, env.single_observation_space) for game, env in self.games.items()}
        first, *_ = spaces
        for game, own in spaces.items():
            if own != spaces[first]:
                found = [f"{name} with {spaces[name][0]} and frames {spaces[name][1].shape}" for name in (first, game)]
                raise UsageError(f"data.game must be games of the same actions and frames, found {' and '.join(found)}")
        return spaces[first]

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[UInt8[NDArray[Any], "B H W C"], dict[str, Any]]:
        """The current observations; `reset` of a resumable environment ends nothing."""
        frames, infos = zip(*(env.reset(seed=seed, options=options) for env in self.games.values()), strict=True)
        return np.concatenate(frames), joined_infos(infos)

    def step(self, actions: Int64[NDArray[Any], "B"]) -> EnvStep:
        """One step of every game."""
        return joined([env.step(actions[self.rows[game]]) for game, env in self.games.items()])

    def metrics(self) -> dict[str, float]:
        """Each game's metrics as `<key>/<game>`, and their means over the games once all games have them."""
        own = {game: env.metrics() for game, env in self.games.items()}
        keys = dict.fromkeys(key for found in own.values() for key in found)
        by_game = {f"{key}/{game}": own[game][key] for key in keys for game in own if key in own[game]}
        known = [key for key in keys if all(key in found for found in own.values())]
        return {key: sum(found[key] for found in own.values()) / len(own) for key in known} | by_game

    def sync_statistics(self, merged: Callable[[RunningMoments], RunningMoments]) -> None:
        """Takes into each game's statistics what other ranks have seen; see `ResumableVectorWrapper`."""
        for env in self.games.values():
            env.sync_statistics(merged)

    def take_statistics(self, state: State) -> None:
        """Goes on with the statistics of each game in other environments; see `ResumableVectorWrapper`."""
        for game, env in self.games.items():
            env.take_statistics(state[game])

    def get_state(self) -> State:
        """The state of each game's environments, by its name."""
        return {game: env.get_state() for game, env in self.games.items()}

    def set_state(self, state: State) -> UInt8[NDArray[Any], "B H W C"]:
        """Continues every game from its part of `state`.

        Raises:
            ValueError: the state is of other games, or one of them refuses its part.
        """
        if list(state) != list(self.games):
            raise ValueError(f"the state is of {', '.join(state)}, these games are {', '.join(self.games)}")
        return np.concatenate([env.set_state(state[game]) for game, env in self.games.items()])

    def close_extras(self, **_: Any) -> None:
        """Closes every game."""
        for env in self.games.values():
            env.close()


def with_statistics(env: ResumableVectorEnv) -> EpisodeStatistics | SideBySide:
    """The environment with `EpisodeStatistics`, which several games have already."""
    return env if isinstance(env, SideBySide) else EpisodeStatistics(env)


def build_side_by_side(
    num_envs: int, seed: int, *, games: Mapping[str, Callable[[int, int], ResumableVectorEnv]]
) -> SideBySide:
    """An equal number of environments of each game.

    Args:
        num_envs: environments of all games together.
        seed: of every game.
        games: what builds so many environments of a game with this seed, by its name.
    """
    return SideBySide({game: build(num_envs // len(games), seed) for game, build in games.items()})


def joined(steps: Sequence[Any]) -> EnvStep:
    """A step of all environments, from those of parts of them."""
    *columns, infos = zip(*steps, strict=True)
    obs, rewards, terminated, truncated = map(np.concatenate, columns)
    return obs, rewards, terminated, truncated, joined_infos(infos)


def joined_infos(infos: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What all parts tell of their environments."""
    return {key: np.concatenate([info[key] for info in infos]) for key in infos[0]}
