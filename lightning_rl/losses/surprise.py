"""SMiRL's surprise-minimizing reward: the log-density of each state given the earlier states of its episode."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Float64
from torch import Tensor

MAX_ABS_REWARD = 300.0
"""Bound on the log-density, as in the released code."""


@dataclass(frozen=True, kw_only=True)
class StateStatistics:
    """Sufficient statistics of the states visited in each environment's current episode."""

    counts: Float64[Tensor, "B"]
    sums: Float64[Tensor, "B Z"]
    squares: Float64[Tensor, "B Z"]

    @classmethod
    def initial(cls, states: Float32[Tensor, "B Z"]) -> "StateStatistics":
        """Statistics of the first states of `B` episodes."""
        wide = states.double()
        return cls(counts=torch.ones_like(wide[:, 0]), sums=wide, squares=wide.square())

    def updated(self, states: Float32[Tensor, "B Z"], starts: Bool[Tensor, "B"]) -> "StateStatistics":
        """Statistics after one more state; where `starts`, it is the first state of a new episode."""
        wide, kept = states.double(), (~starts).double()
        return StateStatistics(
            counts=self.counts * kept + 1,
            sums=self.sums * kept.unsqueeze(-1) + wide,
            squares=self.squares * kept.unsqueeze(-1) + wide.square(),
        )

    def log_density(self, states: Float32[Tensor, "B Z"], min_std: float) -> Float64[Tensor, "B"]:
        """Log-density of `states` under a diagonal Gaussian fitted to the visited states."""
        counts = self.counts.unsqueeze(-1)
        means = self.sums / counts
        variances = (self.squares / counts - means.square()).clamp(min=min_std**2)
        return -0.5 * ((states - means).square() / variances + variances.log() + math.log(2 * math.pi)).sum(-1)


@torch.no_grad()
def surprise_minimizing_rewards(
    next_states: Float32[Tensor, "T B Z"],
    terminated: Bool[Tensor, "T B"],
    visited: StateStatistics,
    *,
    min_std: float,
) -> tuple[Float32[Tensor, "T B"], StateStatistics]:
    """Log-density of each state reached, given the earlier states of its episode.

        r_t = log N(s_{t+1}; m, σ²),    m and σ² of the episode's states up to s_t,    clipped to ±300

    The reward is zero where the episode ended, because s_{t+1} belongs to the next one. (The released code has
    log 2πσ in place of log 2πσ².)

    Args:
        next_states: s_{t+1}, the state after the action at t.
        terminated: whether the action at t ended the episode.
        visited: statistics of each current episode up to s_0.
        min_std: lower bound of σ, which is zero after an episode's first state.

    Returns:
        r_t, and the statistics of the episodes that go on after the last step.

    Reference:
        Berseth et al. 2021, SMiRL: Surprise minimizing reinforcement learning in unstable environments, section 3,
        https://arxiv.org/abs/1912.05510
    """
    rewards = []
    for states, ended in zip(next_states, terminated, strict=True):
        density = visited.log_density(states, min_std).clamp(-MAX_ABS_REWARD, MAX_ABS_REWARD)
        rewards.append(density.masked_fill(ended, 0.0))
        visited = visited.updated(states, ended)
    return torch.stack(rewards).float(), visited
