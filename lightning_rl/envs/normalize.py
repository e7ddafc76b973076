"""Rewards brought to the same scale in all games: clipped, or divided by the scale of the discounted return."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, UInt8
from numpy.typing import NDArray

from lightning_rl.distributed.running_moments import RunningMoments
from lightning_rl.envs.wrapper import ResumableVectorWrapper
from lightning_rl.protocols import EnvStep, ResumableVectorEnv
from lightning_rl.state import from_plain
from lightning_rl.types import State

_NOTHING = RunningMoments(0.0, 0.0, 0.0)


@dataclass(frozen=True)
class NoState:
    """What a wrapper without a memory saves."""


class RewardClipping(ResumableVectorWrapper[NoState]):
    """Bounds each reward: clip(r, ±max_abs_reward). The rewards of the game stay in `info["raw_rewards"]`.

    Args:
        env: the environment whose rewards to clip.
        max_abs_reward: the bound.

    Reference:
        Mnih et al. 2015, Human-level control through deep reinforcement learning, methods, training details
    """

    def __init__(self, env: ResumableVectorEnv, max_abs_reward: float = 1.0) -> None:
        super().__init__(env, NoState())
        self.max_abs_reward = max_abs_reward

    def passed_on(self, step: EnvStep) -> EnvStep:
        """The step with its rewards clipped and kept as they were in `info["raw_rewards"]`."""
        obs, rewards, terminated, truncated, info = step
        info.setdefault("raw_rewards", rewards)
        return obs, rewards.clip(-self.max_abs_reward, self.max_abs_reward), terminated, truncated, info


@dataclass(kw_only=True)
class ReturnScalingState:
    """R of each environment, and the moments of R over all environments, steps and ranks so far."""

    returns: Float64[NDArray[Any], "B"]
    moments: RunningMoments = RunningMoments()  # noqa: RUF009  # immutable


class ReturnScaling(ResumableVectorWrapper[ReturnScalingState]):
    """Divides each reward by the running standard deviation of the discounted return.

        R ← γ·R + r;    r̂ = clip(r / √(Var[R] + ε), ±max_abs_reward);    R ← 0 where the episode ended

    Var[R] runs over all environments and steps so far, this one included; no mean is subtracted. The rewards of the
    game stay in `info["raw_rewards"]`. What other ranks have seen is taken in by `sync_statistics`, between rollouts.

    Args:
        env: the environment whose rewards to scale.
        gamma: γ of the discounted return; the published agents use 0.99 here although they learn with 0.999.
        max_abs_reward: bound of a scaled reward.
        epsilon: ε, which keeps the division finite.

    Reference:
        openai/baselines, common/vec_env/vec_normalize.py, `VecNormalize.step_wait`; its defaults are those here
    """

    def __init__(
        self, env: ResumableVectorEnv, gamma: float = 0.99, max_abs_reward: float = 10.0, epsilon: float = 1e-8
    ) -> None:
        super().__init__(env, ReturnScalingState(returns=np.zeros(env.num_envs)))
        self.gamma = gamma
        self.max_abs_reward = max_abs_reward
        self.epsilon = epsilon
        self._agreed = self._own.moments  # of all ranks, when they last agreed
        self._new = _NOTHING  # what this rank has seen since then

    def passed_on(self, step: EnvStep) -> EnvStep:
        """The step with its rewards scaled and kept as they were in `info["raw_rewards"]`."""
        obs, rewards, terminated, truncated, info = step
        info.setdefault("raw_rewards", rewards)
        scaled = self._scaled(rewards)
        self._own.returns[terminated | truncated] = 0.0
        return obs, scaled, terminated, truncated, info

    def _scaled(self, rewards: Float32[NDArray[Any], "B"]) -> Float32[NDArray[Any], "B"]:
        own = self._own
        own.returns *= self.gamma
        own.returns += rewards
        seen = _moments_of(own.returns)
        own.moments = own.moments.merged(seen)
        self._new = self._new.merged(seen)
        std = (own.moments.variance + self.epsilon) ** 0.5
        scaled: NDArray[np.float32] = np.maximum(rewards / std, -self.max_abs_reward)
        return np.minimum(scaled, self.max_abs_reward, out=scaled)

    def sync_statistics(self, merged: Callable[[RunningMoments], RunningMoments]) -> None:
        """See `ResumableVectorWrapper`."""
        super().sync_statistics(merged)
        self._own.moments = self._agreed = self._agreed.merged(merged(self._new))
        self._new = _NOTHING

    def take_statistics(self, state: State) -> None:
        """See `ResumableVectorWrapper`."""
        super().take_statistics(state)
        self._own.moments = self._agreed = from_plain(ReturnScalingState, state, type(self).__name__).moments
        self._new = _NOTHING

    def set_state(self, state: State) -> UInt8[NDArray[Any], "B H W C"]:
        """See `ResumableVectorWrapper`."""
        obs = super().set_state(state)
        self._agreed, self._new = self._own.moments, _NOTHING
        return obs


def _moments_of(returns: Float64[NDArray[Any], "B"]) -> RunningMoments:
    # numpy's own mean and var take more than twice as long for an array this short
    count = float(len(returns))
    mean = float(returns.sum()) / count
    deviations = returns - mean
    return RunningMoments(mean, float(deviations @ deviations) / count, count)
