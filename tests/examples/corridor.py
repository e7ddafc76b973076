"""A game from outside of lightning_rl: a vector environment that can be saved, and its data module.

In a package of yours this is `my_lab/corridor.py`, and your `pyproject.toml` has

    [project.entry-points."lightning_rl.plugins"]
    corridor = "my_lab.corridor"
"""

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from lightning_rl import RolloutDataModule
from lightning_rl.data.actor_process import MakeEnv
from lightning_rl.protocols import ResumableVectorEnv
from lightning_rl.types import State

OBS_SHAPE = (16, 16, 3)
LEFT, RIGHT = range(2)


class CorridorVectorEnv(VectorEnv[NDArray[Any], NDArray[Any], NDArray[Any]]):
    """Corridors in which a light stands for the player; the end on the right earns 1 and ends the episode.

    Args:
        num_envs: corridors that are played side by side.
        seed: of the places where episodes start.
        length: places of a corridor, at most 16.
    """

    def __init__(self, num_envs: int, seed: int, *, length: int) -> None:
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.num_envs = num_envs
        self.single_observation_space = gym.spaces.Box(0, 255, OBS_SHAPE, np.uint8)
        self.single_action_space = gym.spaces.Discrete(2)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._length = length
        self._generator = np.random.default_rng(seed)
        self._places = self._generator.integers(length - 1, size=num_envs)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        """The current frames."""
        return self._frames(), {}

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """One step to the left or to the right; who has reached the end starts anew at once."""
        places = np.maximum(self._places + np.where(actions == RIGHT, 1, -1), 0)
        terminated = places == self._length - 1
        starts = self._generator.integers(self._length - 1, size=self.num_envs)
        self._places = np.where(terminated, starts, places)
        return self._frames(), terminated.astype(np.float32), terminated, np.zeros(self.num_envs, dtype=np.bool_), {}

    def get_state(self) -> State:
        """Places and random stream."""
        return {"places": torch.from_numpy(self._places.copy()), "generator": self._generator.bit_generator.state}

    def set_state(self, state: State) -> NDArray[np.uint8]:
        """Goes on from them."""
        self._places = state["places"].numpy().copy()
        self._generator.bit_generator.state = state["generator"]
        return self._frames()

    def _frames(self) -> NDArray[np.uint8]:
        frames = np.zeros((self.num_envs, *OBS_SHAPE), dtype=np.uint8)
        frames[np.arange(self.num_envs), :, self._places] = 255
        return frames


class CorridorDataModule(RolloutDataModule):
    """Rollouts and episodes of the corridor.

    Args:
        game: `corridor`.
        length: places of a corridor, at most 16.
        num_envs: environments of one rank.
        num_steps: steps of each environment in one rollout.
        total_env_steps: the run ends at the first epoch end at or past so many.
        **options: of `RolloutDataModule`.
    """

    obs_shape = OBS_SHAPE
    num_actions = 2
    decisive = ("game", "length")

    def __init__(
        self,
        *,
        game: str = "corridor",
        length: int = 8,
        num_envs: int = 16,
        num_steps: int = 32,
        total_env_steps: int = 50_000,
        **options: Any,
    ) -> None:
        super().__init__(game=game, num_envs=num_envs, num_steps=num_steps, total_env_steps=total_env_steps, **options)
        self.length = length

    def games(self, num_envs: int, levels: tuple[int, int], seed: int) -> ResumableVectorEnv:
        """Corridors for judging; all levels are alike."""
        return CorridorVectorEnv(num_envs, seed, length=self.length)

    def training_games(self) -> MakeEnv:
        """What builds corridors, in whatever process."""
        return partial(CorridorVectorEnv, length=self.length)
