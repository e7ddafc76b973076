"""Rewards brought to the same scale in all games: clipped, or divided by the scale of the discounted return."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64, UInt8
from numpy.typing import NDArray

from lightning_rl.distributed.running_moments import RunningMoments
from lightning_rl.envs.wrapper import ResumableVectorWrapper
from lightning_rl.protocols import ResumableVectorEnv
from lightning_rl.types import State

_NOTHING = RunningMoments(0.0, 0.0, 0.0)


class RewardClipping(ResumableVectorWrapper):
    """Bounds each reward: clip(r, ±max_abs_reward). The rewards of the game stay in `info["raw_rewards"]`.

    Args:
        env: The environment whose rewards to clip.
        max_abs_reward: The bound.

    Reference:
        Mnih et al. 2015, Human-level control through deep reinforcement learning, methods, training details
    """

    def __init__(self, env: ResumableVectorEnv, max_abs_reward: float = 1.0) -> None:
        super().__init__(env)
        self.max_abs_reward = max_abs_reward

    def step(
        self, actions: Int64[NDArray[Any], "B"]
    ) -> tuple[
        UInt8[NDArray[Any], "B H W C"],
        Float32[NDArray[Any], "B"],
        Bool[NDArray[Any], "B"],
        Bool[NDArray[Any], "B"],
        dict[str, Any],
    ]:
        """One step of the environment inside, its rewards clipped and kept as they were in `info["raw_rewards"]`."""
        obs, rewards, terminated, truncated, info = self._inner.step(actions)
        info.setdefault("raw_rewards", rewards)
        return obs, rewards.clip(-self.max_abs_reward, self.max_abs_reward), terminated, truncated, info

    def _own_state(self) -> State:
        return {}

    def _set_own_state(self, state: State) -> None:
        pass


class ReturnScaling(ResumableVectorWrapper):
    """Divides each reward by the running standard deviation of the discounted return.

        R ← γ·R + r;    r̂ = clip(r / √(Var[R] + ε), ±max_abs_reward);    R ← 0 where the episode ended

    Var[R] runs over all environments and steps so far, this one included; no mean is subtracted. The rewards of the
    game stay in `info["raw_rewards"]`. What other ranks have seen is taken in by `agree`, between rollouts.

    Args:
        env: The environment whose rewards to scale.
        gamma: γ of the discounted return; the published agents use 0.99 here although they learn with 0.999.
        max_abs_reward: Bound of a scaled reward.
        epsilon: ε, which keeps the division finite.

    Reference:
        openai/baselines, common/vec_env/vec_normalize.py, `VecNormalize.step_wait`; its defaults are those here
    """

    def __init__(
        self, env: ResumableVectorEnv, gamma: float = 0.99, max_abs_reward: float = 10.0, epsilon: float = 1e-8
    ) -> None:
        super().__init__(env)
        self.gamma = gamma
        self.max_abs_reward = max_abs_reward
        self.epsilon = epsilon
        self._returns = np.zeros(env.num_envs)
        self._moments = self._agreed = RunningMoments()
        self._new = _NOTHING  # seen since the ranks have agreed

    def step(
        self, actions: Int64[NDArray[Any], "B"]
    ) -> tuple[
        UInt8[NDArray[Any], "B H W C"],
        Float32[NDArray[Any], "B"],
        Bool[NDArray[Any], "B"],
        Bool[NDArray[Any], "B"],
        dict[str, Any],
    ]:
        """One step of the environment inside, its rewards scaled and kept as they were in `info["raw_rewards"]`."""
        obs, rewards, terminated, truncated, info = self._inner.step(actions)
        info.setdefault("raw_rewards", rewards)
        scaled = self._scaled(rewards)
        self._returns[terminated | truncated] = 0.0
        return obs, scaled, terminated, truncated, info

    def _scaled(self, rewards: Float32[NDArray[Any], "B"]) -> Float32[NDArray[Any], "B"]:
        self._returns *= self.gamma
        self._returns += rewards
        seen = _moments_of(self._returns)
        self._moments = self._moments.merged(seen)
        self._new = self._new.merged(seen)
        deviation = (self._moments.variance + self.epsilon) ** 0.5
        scaled: NDArray[np.float32] = np.maximum(rewards / deviation, -self.max_abs_reward)
        return np.minimum(scaled, self.max_abs_reward, out=scaled)

    def sync_statistics(self, merged: Callable[[RunningMoments], RunningMoments]) -> None:
        """See `ResumableVectorWrapper`."""
        super().sync_statistics(merged)
        self._moments = self._agreed = self._agreed.merged(merged(self._new))
        self._new = _NOTHING

    def _own_state(self) -> State:
        return {"returns": torch.from_numpy(self._returns.copy()), "moments": list(self._moments)}

    def _set_own_state(self, state: State) -> None:
        self._returns = state["returns"].numpy().copy()
        self._moments = self._agreed = RunningMoments(*state["moments"])
        self._new = _NOTHING


def _moments_of(returns: Float64[NDArray[Any], "B"]) -> RunningMoments:
    # numpy's own mean and var take more than twice as long for an array this short
    count = float(len(returns))
    mean = float(returns.sum()) / count
    deviations = returns - mean
    return RunningMoments(mean, float(deviations @ deviations) / count, count)
