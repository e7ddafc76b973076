"""The reward for staying where one has been: how likely a state was, judged by the episode so far."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float32, Float64
from torch import Tensor

MAX_ABS_REWARD = 300.0
"""Bound on the log-density, as in the released code."""


@dataclass(frozen=True, kw_only=True)
class Visited:
    """What is known of the states of the open episodes: how many, their sums and their sums of squares."""

    counts: Float64[Tensor, "B"]
    sums: Float64[Tensor, "B Z"]
    squares: Float64[Tensor, "B Z"]

    @classmethod
    def only(cls, states: Float32[Tensor, "B Z"]) -> "Visited":
        """Episodes that have seen one state each."""
        wide = states.double()
        return cls(counts=torch.ones_like(wide[:, 0]), sums=wide, squares=wide.square())

    def then(self, states: Float32[Tensor, "B Z"], starts: Bool[Tensor, "B"]) -> "Visited":
        """After one more state; where it opens an episode, it is the only one."""
        wide, kept = states.double(), (~starts).double()
        return Visited(
            counts=self.counts * kept + 1,
            sums=self.sums * kept.unsqueeze(-1) + wide,
            squares=self.squares * kept.unsqueeze(-1) + wide.square(),
        )

    def log_density(self, states: Float32[Tensor, "B Z"], min_deviation: float) -> Float64[Tensor, "B"]:
        """Log-density of states under the normal distribution, diagonal, of the ones before."""
        counts = self.counts.unsqueeze(-1)
        means = self.sums / counts
        variances = (self.squares / counts - means.square()).clamp(min=min_deviation**2)
        return -0.5 * ((states - means).square() / variances + variances.log() + math.log(2 * math.pi)).sum(-1)


@torch.no_grad()
def surprise_minimising_rewards(
    next_states: Float32[Tensor, "T B Z"],
    terminated: Bool[Tensor, "T B"],
    visited: Visited,
    *,
    min_deviation: float,
) -> tuple[Float32[Tensor, "T B"], Visited]:
    """Log-density of each state reached, under the states of its episode before it.

        r_t = log N(s_{t+1}; m, σ²),    m and σ² of the episode's states up to s_t,    clipped to ±300

    Zero where the episode ended: the state shown there opens the next one. (The released code takes log 2πσ where this
    takes log 2πσ².)

    Args:
        next_states: s_{t+1}, what the action at t led to.
        terminated: whether the action at t ended the episode.
        visited: the states of the open episodes up to s_0.
        min_deviation: floor on σ; an episode's second state would else divide by zero.

    Returns:
        r_t, and the states of the episodes that are open at the end.

    Reference:
        Berseth et al. 2021, SMiRL: Surprise minimizing reinforcement learning in unstable environments, section 3,
        https://arxiv.org/abs/1912.05510
    """
    rewards = []
    for states, ended in zip(next_states, terminated, strict=True):
        density = visited.log_density(states, min_deviation).clamp(-MAX_ABS_REWARD, MAX_ABS_REWARD)
        rewards.append(density.masked_fill(ended, 0.0))
        visited = visited.then(states, ended)
    return torch.stack(rewards).float(), visited
