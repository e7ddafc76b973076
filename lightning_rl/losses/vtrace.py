"""What a rollout of an older policy says about the newer one."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class VTrace(NamedTuple):
    """What the critic regresses to, and what the policy's gradient is weighted by; both without gradient."""

    targets: Float[Tensor, "T B"]
    advantages: Float[Tensor, "T B"]


@torch.no_grad()
def vtrace(
    *,
    rewards: Float[Tensor, "T B"],
    discounts: Float[Tensor, "T B"],
    log_rhos: Float[Tensor, "T B"],
    values: Float[Tensor, "T B"],
    next_values: Float[Tensor, "T B"],
    max_rho: float | None = 1.0,
    max_c: float = 1.0,
    max_pg_rho: float | None = 1.0,
) -> VTrace:
    """V-trace targets and policy-gradient advantages.

        v_t = V(x_t) + Σ_{s≥t} (Π_{i=t}^{s−1} d_i c_i) δ_s,   δ_s = min(ρ̄, ρ_s) (r_s + d_s V(x_{s+1}) − V(x_s))
        A_t = min(ρ̄_pg, ρ_t) (r_t + d_t v_{t+1} − V(x_t)),    v_T = V(x_T),    c_i = min(c̄, ρ_i)

    computed backwards as v_t − V(x_t) = δ_t + d_t c_t (v_{t+1} − V(x_{t+1})). Where π = μ and the clips are at least 1
    the targets are the discounted returns, bootstrapped, and the advantages those of generalised estimation with λ = 1.

    Args:
        rewards: r_t, consequence of the action at t.
        discounts: d_t, zero where the episode ended at t.
        log_rhos: log π(a_t | x_t) − log μ(a_t | x_t), of the policy that learns over the one that acted.
        values: V(x_t), of the network that learns.
        next_values: V(x_{t+1}), of the same; the last row is the bootstrap value.
        max_rho: ρ̄, bounds the weight of a TD error and so decides which policy's values the targets are; null for none.
        max_c: c̄, bounds how far a TD error reaches back.
        max_pg_rho: ρ̄_pg, bounds the weight of a step in the policy's gradient; null for none.

    Returns:
        v_t and A_t.

    Reference:
        Espeholt et al. 2018, IMPALA, section 4, https://arxiv.org/abs/1802.01561; deepmind/scalable_agent, vtrace.py
    """
    rhos = log_rhos.exp()
    deltas = _bounded(rhos, max_rho) * (rewards + discounts * next_values - values)
    traces = discounts * rhos.clamp(max=max_c)
    excess = torch.zeros_like(deltas[0])  # v_{t+1} − V(x_{t+1})
    excesses = []
    for delta, trace in zip(deltas.flip(0), traces.flip(0), strict=True):
        excess = delta + trace * excess
        excesses.append(excess)
    targets = values + torch.stack(excesses[::-1])
    next_targets = torch.cat([targets[1:], next_values[-1:]])
    return VTrace(targets, _bounded(rhos, max_pg_rho) * (rewards + discounts * next_targets - values))


def _bounded(rhos: Float[Tensor, "T B"], bound: float | None) -> Float[Tensor, "T B"]:
    return rhos if bound is None else rhos.clamp(max=bound)
