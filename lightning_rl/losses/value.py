"""Value losses: ½ · error², with and without clipping."""

import torch
from jaxtyping import Float
from torch import Tensor


def squared_value_loss(values: Float[Tensor, "*batch"], targets: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Half the squared error of the values; its gradient is the error.

        ½ (V − G)²

    Args:
        values: V.
        targets: G, the returns.

    Returns:
        The loss of each value; gradient reaches `values` only.

    Reference:
        Espeholt et al. 2018, IMPALA, section 4.2, the l2 loss of V, https://arxiv.org/abs/1802.01561;
        openai/baselines, ppo2/model.py, `vf_loss`, for the ½
    """
    return 0.5 * (values - targets.detach()).square()


def clipped_value_loss(
    *,
    values: Float[Tensor, "*batch"],
    behavior_values: Float[Tensor, "*batch"],
    targets: Float[Tensor, "*batch"],
    epsilon: float,
) -> Float[Tensor, "*batch"]:
    """Half the squared error of the value or of the clipped value, whichever is larger.

        ½ max((V − G)², (V_old + clip(V − V_old, −ε, ε) − G)²)

    A value that has moved more than ε toward its target gets no gradient. With ε = ∞ this is `squared_value_loss`.

    Args:
        values: V.
        behavior_values: V_old, the values when the policy acted.
        targets: G, the returns.
        epsilon: ε, how far a value may move per rollout, in the units of the rewards.

    Returns:
        The loss of each value; gradient reaches `values` only.

    Reference:
        openai/baselines, ppo2/model.py, `vpredclipped`; it is in no equation of Schulman et al. 2017
    """
    old_values = behavior_values.detach()
    clipped_values = old_values + (values - old_values).clamp(-epsilon, epsilon)
    return torch.maximum(squared_value_loss(values, targets), squared_value_loss(clipped_values, targets))


def value_loss(
    values: Float[Tensor, "*batch"],
    behavior_values: Float[Tensor, "*batch"],
    targets: Float[Tensor, "*batch"],
    *,
    epsilon: float | None,
) -> Float[Tensor, "*batch"]:
    """`clipped_value_loss`, or without an `epsilon` `squared_value_loss`."""
    if epsilon is None:
        return squared_value_loss(values, targets)
    return clipped_value_loss(values=values, behavior_values=behavior_values, targets=targets, epsilon=epsilon)
