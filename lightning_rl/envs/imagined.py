"""A world model as a vector environment, so that a policy learns in it as it would in the game."""

from collections.abc import Callable
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from jaxtyping import Bool, Float32, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from lightning_rl.envs.closed import check_open
from lightning_rl.protocols import WorldModel
from lightning_rl.types import State

Outcomes = Literal["likeliest", "expected"]

Starts = Callable[[int, torch.Generator], UInt8[Tensor, "N H W D"]]
"""Draws so many stacks of real frames to start from."""


class ImaginedVectorEnv(VectorEnv[NDArray[Any], NDArray[Any], NDArray[Any]]):
    """`num_envs` games that a world model plays by itself, from real frames on.

    `reset` starts all of them anew, as the method does before every rollout. Where the model says that an episode ends
    the environment starts anew in the same step; the paper's model never ends an episode.

    Observations are stacks, the newest frame last. They are the caller's until the next step.

    Args:
        model: predicts.
        starts: draws what to start from.
        num_envs: environments stepped together.
        num_actions: actions of the game.
        generator: the stream of starts and of what the model draws.
        outcomes: give the `likeliest` reward of each step and end the episode where that is likelier than not, or the
            `expected` reward, and end it by chance.

    Reference:
        Kaiser et al. 2020, Model-based reinforcement learning for Atari, section 4 and algorithm 1,
        https://arxiv.org/abs/1903.00374; tensor2tensor, rl/envs/simulated_batch_gym_env.py
    """

    def __init__(
        self,
        model: WorldModel,
        starts: Starts,
        *,
        num_envs: int,
        num_actions: int,
        generator: torch.Generator,
        outcomes: Outcomes = "likeliest",
    ) -> None:
        self._outcomes = outcomes
        self._model = model
        self._starts = starts
        self._generator = generator
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.num_envs = num_envs
        self._obs = starts(num_envs, generator)
        self._state = model.begin(self._obs)
        self.single_observation_space = gym.spaces.Box(0, 255, tuple(self._obs.shape[1:]), np.uint8)
        self.single_action_space = gym.spaces.Discrete(num_actions)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._is_new = True

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[UInt8[NDArray[Any], "B H W D"], dict[str, Any]]:
        """Starts every environment from real frames.

        Raises:
            ValueError: `seed` or `options` is given; the stream of starts was given when this was built.
        """
        check_open(self)
        if seed is not None or options:
            raise ValueError(f"ImaginedVectorEnv draws from its generator, found seed {seed} and options {options}")
        if not self._is_new:
            self._obs = self._starts(self.num_envs, self._generator)
            self._state = self._model.begin(self._obs)
        self._is_new = False
        return self._obs.cpu().numpy(), {}

    def step(
        self, actions: Int64[NDArray[Any], "B"]
    ) -> tuple[
        UInt8[NDArray[Any], "B H W D"],
        Float32[NDArray[Any], "B"],
        Bool[NDArray[Any], "B"],
        Bool[NDArray[Any], "B"],
        dict[str, Any],
    ]:
        """What the model says that the actions lead to; where an episode ends, real frames to start from."""
        obs, rewards, ended, truncated, info = self.advance(torch.from_numpy(actions))
        return obs.cpu().numpy(), rewards.cpu().numpy(), ended, truncated, info

    @property
    def frames(self) -> UInt8[Tensor, "B H W D"]:
        """The current observations, where the starts are."""
        return self._obs

    def advance(
        self, actions: Int64[Tensor, "B"]
    ) -> tuple[
        UInt8[Tensor, "B H W D"], Float32[Tensor, "B"], Bool[NDArray[Any], "B"], Bool[NDArray[Any], "B"], dict[str, Any]
    ]:
        """One step, of which only the ends of episodes are read from the device."""
        check_open(self)
        self._is_new = False
        step = self._model.imagine(self._obs, actions, self._generator, self._state)
        channels = step.frames.shape[-1]
        self._obs = torch.cat([self._obs[..., channels:], step.frames.to(self._obs.device)], dim=-1)
        self._state = step.state
        if self._outcomes == "likeliest":
            rewards, ended = step.rewards, step.end_probabilities.cpu() > 0.5
        else:
            chances = torch.rand(self.num_envs, generator=self._generator, device=self._generator.device).cpu()
            rewards, ended = step.expected_rewards, chances < step.end_probabilities.cpu()
        if ended.any():
            self._start_anew(ended)
        truncated = np.zeros(self.num_envs, dtype=np.bool_)
        return self._obs, rewards, ended.numpy(), truncated, {}

    def _start_anew(self, ended: Bool[Tensor, "B"]) -> None:
        fresh = self._starts(int(ended.sum()), self._generator)
        self._obs[ended.to(self._obs.device)] = fresh.to(self._obs.device)
        state = self._model.begin(fresh)
        if self._state is not None and state is not None:
            self._state = self._state.clone()
            self._state[ended.to(self._state.device)] = state.to(self._state)

    def get_state(self) -> State:
        """The frames and the model's state; the model and the generator are others' to save."""
        check_open(self)
        return {"obs": self._obs.clone(), "state": None if self._state is None else self._state.clone()}

    def set_state(self, state: State) -> UInt8[NDArray[Any], "B H W D"]:
        """Continues from what `get_state` returned."""
        check_open(self)
        self._obs = state["obs"].clone()
        self._state = None if state["state"] is None else state["state"].clone()
        return self._obs.cpu().numpy()
