"""The last frames of each environment as one observation."""

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector.utils import batch_space
from jaxtyping import Bool, Float32, Int64, UInt8
from numpy.typing import NDArray

from lightning_rl.envs.wrapper import ResumableVectorWrapper
from lightning_rl.protocols import ResumableVectorEnv
from lightning_rl.types import State


class FrameStack(ResumableVectorWrapper):
    """Observes the last `num_frames` frames, channel after channel, the newest last.

    An episode opens with its first frame as all of them: nothing of the episode before is seen.

    Args:
        env: The environment whose frames to stack. A frame is done with before the next step.
        num_frames: K, at least 1; an observation has K times the channels of a frame.
        copy: Observations are the caller's to keep, and to leave unchanged. Otherwise two arrays take turns: for who is
            done with an observation before the next but one step.

    Reference:
        Mnih et al. 2015, Human-level control through deep reinforcement learning, methods, preprocessing
    """

    def __init__(self, env: ResumableVectorEnv, num_frames: int, *, copy: bool = True) -> None:
        super().__init__(env)
        frames, _ = env.reset()
        self._num_frames = num_frames
        self._copy = copy
        self._stacks = self._opening(frames)
        self._spare = np.empty_like(self._stacks)
        self.single_observation_space = gym.spaces.Box(0, 255, self._stacks.shape[1:], np.uint8)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[UInt8[NDArray[Any], "B H W C"], dict[str, Any]]:
        """The current stacks; `reset` of a resumable environment ends nothing."""
        _, info = self._inner.reset(seed=seed, options=options)
        return self._stacks, info

    def step(
        self, actions: Int64[NDArray[Any], "B"]
    ) -> tuple[
        UInt8[NDArray[Any], "B H W C"],
        Float32[NDArray[Any], "B"],
        Bool[NDArray[Any], "B"],
        Bool[NDArray[Any], "B"],
        dict[str, Any],
    ]:
        """One step of the environment inside, its frame pushed onto the stack."""
        frames, rewards, terminated, truncated, info = self._inner.step(actions)
        self._push(frames)
        ended = terminated | truncated
        if ended.any():
            self._stacks[ended] = self._opening(frames[ended])
        return self._stacks, rewards, terminated, truncated, info

    def _push(self, frames: UInt8[NDArray[Any], "B H W C"]) -> None:
        before, channels = self._stacks, frames.shape[-1]
        self._stacks = np.empty_like(before) if self._copy else self._spare
        self._spare = before
        # all bytes move down by a frame's channels at once; what runs over into the newest place is written next
        self._stacks.reshape(-1)[:-channels] = before.reshape(-1)[channels:]
        for channel in range(channels):  # numpy is several times slower where the inner loop is over three channels
            self._stacks[..., channel - channels] = frames[..., channel]

    def _opening(self, frames: UInt8[NDArray[Any], "N H W C"]) -> UInt8[NDArray[Any], "N H W K"]:
        return np.tile(frames, self._num_frames)

    def set_state(self, state: State) -> UInt8[NDArray[Any], "B H W C"]:
        """Continues from `state`; see `ResumableVectorWrapper.set_state`.

        Raises:
            ValueError: `state` was saved with another number or size of frames; or as there.
        """
        saved = tuple(state["stacks"].shape) if "stacks" in state else self._stacks.shape
        if saved != self._stacks.shape:
            raise ValueError(
                f"the state has stacks of shape {saved}, this environment of {self._stacks.shape}; build it with the"
                " same frames and environments"
            )
        super().set_state(state)
        return self._stacks

    def _own_state(self) -> State:
        return {"stacks": torch.from_numpy(self._stacks.copy())}

    def _set_own_state(self, state: State) -> None:
        self._stacks = state["stacks"].numpy().copy()
