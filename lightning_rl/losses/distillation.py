"""Network distillation: errors of a trained teacher that predicts a frozen, randomly initialized student.

The names are Rullo's. In random network distillation (RND) the student is the target, the teacher the predictor.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def prediction_error(teacher: Float[Tensor, "*batch D"], student: Float[Tensor, "*batch D"]) -> Float[Tensor, "*batch"]:
    """Mean squared error of the teacher's prediction: its loss, and RND's intrinsic reward.

        1/D Σ_d (f̂_d(x) − f_d(x))²

    Args:
        teacher: f̂(x), the output being trained.
        student: f(x), the output of the frozen network.

    Returns:
        The error of each observation; gradient reaches `teacher` only.

    Reference:
        Rullo 2024, Procgen-Solving agent using PPO and Distillation network strategy, eq. 4; Burda et al. 2018,
        Exploration by random network distillation, section 2.2, https://arxiv.org/abs/1810.12894
    """
    return (teacher - student.detach()).square().mean(-1)


@torch.no_grad()
def absolute_prediction_error(
    teacher: Float[Tensor, "*batch D"], student: Float[Tensor, "*batch D"]
) -> Float[Tensor, "*batch"]:
    """Mean absolute error of the teacher's prediction: Rullo's intrinsic reward before it is scaled.

        1/D Σ_d |f̂_d(x) − f_d(x)|

    Args:
        teacher: f̂(x), the output being trained.
        student: f(x), the output of the frozen network.

    Returns:
        The error of each observation, without gradient.

    Reference:
        Lapan 2020, Deep reinforcement learning hands-on, 2nd ed., chapter 21, atari_ppo.py, which Rullo's code follows
    """
    return (teacher - student).abs().mean(-1)
