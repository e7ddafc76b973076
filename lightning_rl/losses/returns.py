"""Discounts, generalized advantage estimates, and the discounted sums that scale intrinsic rewards."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lightning_rl.distributed.running_moments import RunningMoments


def discounts_from(terminated: Bool[Tensor, "*shape"], gamma: float) -> Float[Tensor, "*shape"]:
    """Discount of the value that follows each step.

        d_t = γ (1 − terminated_t)

    Args:
        terminated: whether the action at t ended the episode.
        gamma: γ, per env step.

    Returns:
        γ inside an episode, zero at its end.

    Reference:
        Rullo 2024, Procgen-Solving agent using PPO and Distillation network strategy, eq. 5, the factor of v_{t+1}
    """
    return gamma * ~terminated


@torch.no_grad()
def generalized_advantages(
    *,
    rewards: Float[Tensor, "T B"],
    discounts: Float[Tensor, "T B"],
    values: Float[Tensor, "T B"],
    next_values: Float[Tensor, "T B"],
    lambda_: float,
) -> Float[Tensor, "T B"]:
    """Generalized advantage estimates (GAE) of one stream of rewards.

        A_t = Σ_{s≥t} (Π_{i=t}^{s−1} d_i λ) δ_s,   δ_t = r_t + d_t V(x_{t+1}) − V(x_t)

    computed backwards as A_t = δ_t + d_t λ A_{t+1}. With λ = 0 this is the TD error, with λ = 1 the bootstrapped
    discounted return minus the value.

    With r = r_ext + r_int and V = V_ext + V_int these are eqs. 5–8 of Rullo. Eq. 7 prints V_{t+1} = Vext + Vext; the
    second Vext is a misprint for Vint, as eqs. 6 and 9 and the author's code show. The estimate is linear in rewards
    and values, so the sum of the two streams' advantages is the same number, provided that they share d and λ.

    Args:
        rewards: r_t, the reward of the action at t.
        discounts: d_t, zero where the episode ended at t.
        values: V(x_t).
        next_values: V(x_{t+1}); the last row is the bootstrap value.
        lambda_: λ, from 0 (biased by the values) to 1 (high variance, from the rewards).

    Returns:
        A_t, without gradient; A_t + V(x_t) is the target of the value head.

    Reference:
        Schulman et al. 2016, High-dimensional continuous control using generalized advantage estimation, eq. 16,
        https://arxiv.org/abs/1506.02438; Rullo 2024, eqs. 5–8
    """
    deltas = rewards + discounts * next_values - values
    traces = discounts * lambda_

    advantage = torch.zeros_like(deltas[0])
    advantages = []
    for delta, trace in zip(reversed(deltas.unbind()), reversed(traces.unbind()), strict=True):
        advantage = delta + trace * advantage
        advantages.append(advantage)
    return torch.stack(advantages[::-1])


@torch.no_grad()
def normalized(advantages: Float[Tensor, "*shape"], moments: RunningMoments | None = None) -> Float[Tensor, "*shape"]:
    """Advantages normalized to mean zero and standard deviation one.

        (A − mean(A)) / (std(A) + 1e-8)

    Args:
        advantages: A of a whole rollout or of a minibatch; the caller chooses which.
        moments: mean and variance of a larger sample that contains these advantages; None for their own.

    Returns:
        The normalized advantages, without gradient. With the population std, a single one becomes zero, not NaN.

    Reference:
        Rullo 2024, eq. 10; openai/baselines, ppo2/model.py, `Model.train`, for the population std
    """
    if moments is not None:
        return (advantages - moments.mean) / (math.sqrt(moments.variance) + 1e-8)
    return (advantages - advantages.mean()) / (advantages.std(correction=0) + 1e-8)


@torch.no_grad()
def forward_discounted_sums(
    rewards: Float[Tensor, "T B"], start: Float[Tensor, "B"], gamma: float
) -> Float[Tensor, "T B"]:
    """Discounted sums of past rewards; their standard deviation scales intrinsic rewards.

        F_t = γ F_{t−1} + i_t

    Each environment has its own sum, which continues across ends of episodes and rollouts: pass the last row of one
    rollout as the `start` of the next.

    Args:
        rewards: i_t.
        start: F_{−1}, zero before the first rollout.
        gamma: γ, per env step.

    Returns:
        F_t in the higher of the two inputs' precisions, without gradient.

    Reference:
        Burda et al. 2018, Exploration by random network distillation, section 2.4, https://arxiv.org/abs/1810.12894;
        openai/random-network-distillation, ppo_agent.py, `RewardForwardFilter`
    """
    discounted_sum = start
    discounted_sums = []
    for reward in rewards.unbind():
        discounted_sum = gamma * discounted_sum + reward
        discounted_sums.append(discounted_sum)
    return torch.stack(discounted_sums)
