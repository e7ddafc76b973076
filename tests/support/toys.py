"""Closed-form worlds behind the same protocol as the games: no Procgen, no randomness that is not in their state."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from lightning_rl.types import State

OBS_SHAPE = (64, 64, 3)


class ToyVectorEnv(VectorEnv[NDArray[Any], NDArray[Any], NDArray[Any]], ABC):
    """Same-step autoreset, a `reset` that restarts nothing, and Procgen's `info`."""

    def __init__(self, num_envs: int, obs_shape: tuple[int, int, int], num_actions: int) -> None:
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.num_envs = num_envs
        self.obs_shape = obs_shape
        self.num_actions = num_actions
        self.single_observation_space = gym.spaces.Box(0, 255, obs_shape, np.uint8)
        self.single_action_space = gym.spaces.Discrete(num_actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.steps = np.zeros(num_envs, dtype=np.int64)
        self.episodes = np.zeros(num_envs, dtype=np.int64)

    @abstractmethod
    def _obs(self) -> NDArray[np.uint8]:
        """The frames of the current states."""

    @abstractmethod
    def _act(self, actions: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Rewards and `terminated` of `actions` in the current states."""

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.uint8], dict[str, Any]]:
        if seed is not None or options:
            raise ValueError(f"a toy takes neither seed {seed} nor options {options} on reset; build another one")
        return self._obs(), {"level_seed": self.episodes.copy()}

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        if actions.shape != (self.num_envs,) or not self.action_space.contains(actions):
            raise ValueError(f"actions must be {self.num_envs} of 0 to {self.num_actions - 1}, not {actions}")
        rewards, terminated = self._act(actions)
        played = self.episodes.copy()
        self.steps = np.where(terminated, 0, self.steps + 1)
        self.episodes = self.episodes + terminated
        info = {"level_seed": self.episodes.copy(), "prev_level_seed": played, "level_complete": terminated.copy()}
        truncated = np.zeros(self.num_envs, dtype=np.bool_)
        return self._obs(), rewards.astype(np.float32), terminated, truncated, info

    def get_state(self) -> State:
        return {
            "num_envs": self.num_envs,
            "steps": torch.from_numpy(self.steps.copy()),
            "episodes": torch.from_numpy(self.episodes.copy()),
        }

    def set_state(self, state: State) -> NDArray[np.uint8]:
        if state["num_envs"] != self.num_envs:
            raise ValueError(f"the state was saved with num_envs {state['num_envs']}, this toy has {self.num_envs}")
        self.steps = state["steps"].numpy().copy()
        self.episodes = state["episodes"].numpy().copy()
        return self._obs()


class CountingVectorEnv(ToyVectorEnv):
    """Every pixel is the number of steps since the episode began; environment b's episodes last `episode_lengths[b]`.

    The reward of an action taken where the pixels read `step` is `rewards_of(step, action)`, which tells both.
    """

    def __init__(
        self,
        num_envs: int,
        episode_lengths: Sequence[int],
        *,
        obs_shape: tuple[int, int, int] = OBS_SHAPE,
        num_actions: int = 15,
    ) -> None:
        super().__init__(num_envs, obs_shape, num_actions)
        self.episode_lengths = np.resize(np.array(episode_lengths), num_envs)  # repeated where fewer than num_envs

    @staticmethod
    def rewards_of(steps: NDArray[np.int64], actions: NDArray[np.int64]) -> NDArray[np.int64]:
        """What `actions` earn where the pixels read `steps`; exact in float32, different for different arguments."""
        return 100 * steps + actions

    def _obs(self) -> NDArray[np.uint8]:
        obs = np.empty((self.num_envs, *self.obs_shape), dtype=np.uint8)
        obs[...] = (self.steps % 256).astype(np.uint8).reshape(-1, 1, 1, 1)
        return obs

    def _act(self, actions: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        return self.rewards_of(self.steps, actions), self.steps + 1 >= self.episode_lengths


class TruncatingVectorEnv(CountingVectorEnv):
    """Its episodes are cut by a limit of time and never end by themselves."""

    def step(self, actions: NDArray[np.int64]) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        obs, rewards, terminated, truncated, info = super().step(actions)
        return obs, rewards, truncated, terminated, info


class IdentityVectorEnv(ToyVectorEnv):
    """Shows a random number as the position of a bright stripe; naming it earns 1, anything else 0.

    With the default of one step an episode, the return is 1 for a perfect policy and `1 / num_actions` for chance.
    """

    def __init__(
        self,
        num_envs: int,
        *,
        seed: int = 0,
        episode_length: int = 1,
        obs_shape: tuple[int, int, int] = OBS_SHAPE,
        num_actions: int = 15,
    ) -> None:
        super().__init__(num_envs, obs_shape, num_actions)
        if obs_shape[1] < num_actions:
            raise ValueError(f"a frame {obs_shape[1]} pixels wide has no room for {num_actions} stripes")
        self.episode_length = episode_length
        self._generator = np.random.default_rng(seed)
        self.digits = self._generator.integers(num_actions, size=num_envs)

    def _obs(self) -> NDArray[np.uint8]:
        height, width, channels = self.obs_shape
        stripes = np.arange(width) * self.num_actions // width
        lit = stripes == self.digits[:, None]
        frames = np.broadcast_to(lit[:, None, :, None], (self.num_envs, height, width, channels))
        return frames.astype(np.uint8) * np.uint8(255)

    def _act(self, actions: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        rewards = actions == self.digits
        self.digits = self._generator.integers(self.num_actions, size=self.num_envs)
        return rewards, self.steps + 1 >= self.episode_length

    def get_state(self) -> State:
        generator = self._generator.bit_generator.state
        return super().get_state() | {"digits": torch.from_numpy(self.digits.copy()), "generator": generator}

    def set_state(self, state: State) -> NDArray[np.uint8]:
        super().set_state(state)
        self.digits = state["digits"].numpy().copy()
        self._generator.bit_generator.state = state["generator"]
        return self._obs()


class ConstantRewardVectorEnv(ToyVectorEnv):
    """Black frames, reward 1, no end: the value of every state is 1 / (1 − γ)."""

    def __init__(self, num_envs: int, *, obs_shape: tuple[int, int, int] = OBS_SHAPE, num_actions: int = 15) -> None:
        super().__init__(num_envs, obs_shape, num_actions)

    def _obs(self) -> NDArray[np.uint8]:
        return np.zeros((self.num_envs, *self.obs_shape), dtype=np.uint8)

    def _act(self, actions: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        return np.ones(self.num_envs), np.zeros(self.num_envs, dtype=np.bool_)
