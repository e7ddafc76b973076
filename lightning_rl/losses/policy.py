"""Policy losses, and measures of how far the policy has moved from the behavior policy."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

MAX_LOG_RATIO = 80.0  # float32's exp overflows from 88.7 on; the gradient of a clipped infinity would be NaN


def log_probs_of(actions: Int64[Tensor, "*batch"], logits: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch"]:
    """Log-probability of each action under its logits.

        log π(a) = z_a − log Σ_b exp z_b

    Args:
        actions: a.
        logits: z, unnormalized.

    Returns:
        log π(a).

    Reference:
        Bridle 1990, Probabilistic interpretation of feedforward classification network outputs, the softmax
    """
    return logits.log_softmax(-1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)


def entropy(logits: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch"]:
    """Entropy of the policy, in nats.

        H = −Σ_a π(a) log π(a)

    Args:
        logits: unnormalized log π.

    Returns:
        H, between 0 and log A, with gradient. It is a bonus, not a loss: the caller negates it.

    Reference:
        Mnih et al. 2016, Asynchronous methods for deep reinforcement learning, section 4,
        https://arxiv.org/abs/1602.01783; Schulman et al. 2017, eq. 9, the term S
    """
    log_probs = logits.log_softmax(-1)
    return -(log_probs.exp() * log_probs).sum(-1)


def policy_gradient_loss(
    log_probs: Float[Tensor, "*batch"], advantages: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """Policy-gradient loss of each action.

        −A log π(a|x)

    Args:
        log_probs: log π(a|x) of the policy being learned.
        advantages: A.

    Returns:
        The loss of each action; gradient reaches `log_probs` only.

    Reference:
        Sutton et al. 2000, Policy gradient methods for reinforcement learning with function approximation, theorem 1;
        Espeholt et al. 2018, IMPALA, section 4.2, https://arxiv.org/abs/1802.01561
    """
    return -(log_probs * advantages.detach())


def clipped_surrogate_loss(
    *,
    log_probs: Float[Tensor, "*batch"],
    behavior_log_probs: Float[Tensor, "*batch"],
    advantages: Float[Tensor, "*batch"],
    epsilon: float,
) -> Float[Tensor, "*batch"]:
    """PPO's clipped surrogate objective, negated.

        max(−r A, −clip(r, 1 − ε, 1 + ε) A),   r = π(a|x) / μ(a|x)

    The gradient is zero only where r has left the clip range in the direction that A favors. With ε = ∞ this is −r A,
    and with π = μ its gradient is that of −A log π.

    Args:
        log_probs: log π(a|x) of the policy being learned.
        behavior_log_probs: log μ(a|x) of the policy that acted.
        advantages: A, normalized or not.
        epsilon: ε, how far r may move from 1.

    Returns:
        The loss of each action; gradient reaches `log_probs` only.

    Reference:
        Schulman et al. 2017, Proximal policy optimization algorithms, eq. 7, https://arxiv.org/abs/1707.06347;
        Rullo 2024, Procgen-Solving agent using PPO and Distillation network strategy, eqs. 1 and 2
    """
    ratio = (log_probs - behavior_log_probs.detach()).clamp(max=MAX_LOG_RATIO).exp()
    costs = -advantages.detach()
    return torch.maximum(costs * ratio, costs * ratio.clamp(1 - epsilon, 1 + epsilon))


@torch.no_grad()
def approx_kl(
    *, log_probs: Float[Tensor, "*batch"], behavior_log_probs: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """Estimate of KL(μ‖π), the divergence of the policy from the behavior policy, at each action taken.

        (r − 1) − log r,   r = π(a|x) / μ(a|x)

    It is unbiased for actions drawn from μ, and never negative.

    Args:
        log_probs: log π(a|x) of the policy being learned.
        behavior_log_probs: log μ(a|x) of the policy that acted.

    Returns:
        The estimate in nats, without gradient.

    Reference:
        Schulman 2020, Approximating KL divergence, estimator k3, http://joschu.net/blog/kl-approx.html
    """
    log_ratio = (log_probs - behavior_log_probs).clamp(max=MAX_LOG_RATIO)
    return log_ratio.expm1() - log_ratio  # expm1, since exp(x) − 1 is mostly rounding error for PPO's small steps


def clip_fraction(
    *, log_probs: Float[Tensor, "*batch"], behavior_log_probs: Float[Tensor, "*batch"], epsilon: float
) -> Float[Tensor, "*batch"]:
    """Whether each action's probability ratio is outside PPO's clip range.

        1 where |r − 1| > ε, else 0,   r = π(a|x) / μ(a|x)

    Args:
        log_probs: log π(a|x) of the policy being learned.
        behavior_log_probs: log μ(a|x) of the policy that acted.
        epsilon: ε of the clip.

    Returns:
        Ones and zeros whose mean is the clip fraction, without gradient.

    Reference:
        openai/baselines, ppo2/model.py, `clipfrac`
    """
    ratio = (log_probs - behavior_log_probs).exp()
    return ((ratio - 1).abs() > epsilon).to(ratio.dtype)
