"""V-trace: off-policy correction of value targets and advantages."""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class VTrace(NamedTuple):
    """Targets of the critic and advantages of the policy gradient, both without gradient."""

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
    """V-trace off-policy targets and advantages.

        v_t = V(x_t) + Σ_{s≥t} (Π_{i=t}^{s−1} d_i c_i) δ_s,   δ_s = min(ρ̄, ρ_s) (r_s + d_s V(x_{s+1}) − V(x_s))
        A_t = min(ρ̄_pg, ρ_t) (r_t + d_t v_{t+1} − V(x_t)),    v_T = V(x_T),    c_i = min(c̄, ρ_i)

    computed backwards as v_t − V(x_t) = δ_t + d_t c_t (v_{t+1} − V(x_{t+1})). With π = μ and clips of at least 1, the
    targets are the bootstrapped discounted returns and the advantages are those of GAE with λ = 1.

    Args:
        rewards: r_t, the reward of the action at t.
        discounts: d_t, zero where the episode ended at t.
        log_rhos: log π(a_t | x_t) − log μ(a_t | x_t), the target policy π over the behavior policy μ.
        values: V(x_t) of the network being trained.
        next_values: V(x_{t+1}) of the same network; the last row is the bootstrap value.
        max_rho: ρ̄, clips the weight of a TD error and so sets the policy whose values are estimated; None for no clip.
        max_c: c̄, clips how far a TD error propagates back.
        max_pg_rho: ρ̄_pg, clips the weight of a step in the policy gradient; None for no clip.

    Returns:
        v_t and A_t.

    Reference:
        Espeholt et al. 2018, IMPALA, section 4, https://arxiv.org/abs/1802.01561; deepmind/scalable_agent, vtrace.py
    """
    rhos = log_rhos.exp()
    deltas = _clipped(rhos, max_rho) * (rewards + discounts * next_values - values)
    traces = discounts * rhos.clamp(max=max_c)
    correction = torch.zeros_like(deltas[0])  # v_{t+1} − V(x_{t+1})
    corrections = []
    for delta, trace in zip(deltas.flip(0), traces.flip(0), strict=True):
        correction = delta + trace * correction
        corrections.append(correction)
    targets = values + torch.stack(corrections[::-1])
    next_targets = torch.cat([targets[1:], next_values[-1:]])
    return VTrace(targets, _clipped(rhos, max_pg_rho) * (rewards + discounts * next_targets - values))


def _clipped(rhos: Float[Tensor, "T B"], bound: float | None) -> Float[Tensor, "T B"]:
    return rhos if bound is None else rhos.clamp(max=bound)
