"""The last frames of each environment as one observation."""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import batch_space
from jaxtyping import UInt8
from numpy.typing import NDArray

from lightning_rl.envs.wrapper import ResumableVectorWrapper
from lightning_rl.protocols import EnvStep, ResumableVectorEnv
from lightning_rl.types import State


@dataclass(kw_only=True)
class FrameStackState:
    """The current observations."""

    stacks: UInt8[NDArray[Any], "B H W C"]


class FrameStack(ResumableVectorWrapper[FrameStackState]):
    """Observes the last `num_frames` frames, channel after channel, the newest last.

    An episode opens with its first frame as all of them: nothing of the episode before is seen.

    Args:
        env: the environment whose frames to stack; it may overwrite a frame in the next step.
        num_frames: K, at least 1; an observation has K times the channels of a frame.
        copy: every step returns an array of its own, which the caller may keep and must not change. Otherwise two
            arrays take turns, so that an observation lasts until the step after the next.

    Reference:
        Mnih et al. 2015, Human-level control through deep reinforcement learning, methods, preprocessing
    """

    def __init__(self, env: ResumableVectorEnv, num_frames: int, *, copy: bool = True) -> None:
        frames, _ = env.reset()
        stacks = np.tile(frames, num_frames)
        super().__init__(env, FrameStackState(stacks=stacks))
        self._num_frames = num_frames
        self._copy = copy
        self._spare = np.empty_like(stacks)
        self.single_observation_space = gym.spaces.Box(0, 255, stacks.shape[1:], np.uint8)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)

    @property
    def _sizes(self) -> dict[str, int]:
        return dict(zip("BHWC", self._own.stacks.shape, strict=True))

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[UInt8[NDArray[Any], "B H W C"], dict[str, Any]]:
        """The current stacks; `reset` of a resumable environment ends nothing."""
        _, info = self._inner.reset(seed=seed, options=options)
        return self._own.stacks, info

    def passed_on(self, step: EnvStep) -> EnvStep:
        """The step with its frame pushed onto the stack."""
        frames, rewards, terminated, truncated, info = step
        self._push(frames)
        ended = terminated | truncated
        if ended.any():
            self._own.stacks[ended] = np.tile(frames[ended], self._num_frames)
        return self._own.stacks, rewards, terminated, truncated, info

    def _push(self, frames: UInt8[NDArray[Any], "B H W C"]) -> None:
        before, channels = self._own.stacks, frames.shape[-1]
        stacks = np.empty_like(before) if self._copy else self._spare
        # shifts the memory of all stacks at once by one frame's channels; the newest frame's place is written below
        stacks.reshape(-1)[:-channels] = before.reshape(-1)[channels:]
        for channel in range(channels):  # numpy is several times slower where the inner loop is over three channels
            stacks[..., channel - channels] = frames[..., channel]
        self._own.stacks, self._spare = stacks, before

    def set_state(self, state: State) -> UInt8[NDArray[Any], "B H W K"]:
        """See `ResumableVectorWrapper`."""
        super().set_state(state)
        return self._own.stacks
