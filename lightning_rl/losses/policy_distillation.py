"""Policy distillation: how far a student's policy is from its teacher's."""

from jaxtyping import Bool, Float
from torch import Tensor

from lightning_rl.losses.policy import MAX_LOG_RATIO


def policy_divergence(
    teacher_logits: Float[Tensor, "*batch A"], student_logits: Float[Tensor, "*batch A"], *, temperature: float = 1.0
) -> Float[Tensor, "*batch"]:
    """Divergence of the student's policy from the teacher's, at each frame.

        D_KL(π_T ‖ π_S) = Σ_a π_T(a) (log π_T(a) − log π_S(a)),   π_T = softmax(z_T / τ),   π_S = softmax(z_S)

    Args:
        teacher_logits: z_T.
        student_logits: z_S.
        temperature: τ; below 1 the student learns a sharper policy than the teacher's.

    Returns:
        The divergence in nats, at least 0; gradient reaches `student_logits` only.

    Reference:
        Rullo 2024, Procgen-Solving agent using PPO and Distillation network strategy, eq. 3; Rusu et al. 2015, Policy
        distillation, eq. 4, https://arxiv.org/abs/1511.06295, for the temperature
    """
    teacher = (teacher_logits.detach() / temperature).log_softmax(-1)
    return (teacher.exp() * (teacher - student_logits.log_softmax(-1))).sum(-1)


def proximal_divergence(
    divergences: Float[Tensor, "*batch"],
    *,
    log_probs: Float[Tensor, "*batch"],
    behavior_log_probs: Float[Tensor, "*batch"],
    epsilon: float,
) -> Float[Tensor, "*batch"]:
    """Divergence weighted by how much more likely the student has become to act as it did, clipped from below.

        max(r, 1 − ε) D_KL(π_T ‖ π_S),   r = π_S(a|x) / μ(a|x)

    Args:
        divergences: D_KL(π_T ‖ π_S).
        log_probs: log π_S(a|x) of the student that learns.
        behavior_log_probs: log μ(a|x) of the student that acted.
        epsilon: ε, PPO's clip.

    Returns:
        The loss of each action; gradient reaches `divergences`, and `log_probs` where r is above the clip.

    Reference:
        Spigler 2024, Proximal policy distillation, eq. 5, https://arxiv.org/abs/2407.15134; spiglerg/sb3_distill,
        sb3_distill/ppd.py
    """
    ratio = (log_probs - behavior_log_probs.detach()).clamp(max=MAX_LOG_RATIO).exp()
    return ratio.clamp(min=1 - epsilon) * divergences


def is_same_choice(
    teacher_logits: Float[Tensor, "*batch A"], student_logits: Float[Tensor, "*batch A"]
) -> Bool[Tensor, "*batch"]:
    """Whether teacher and student find the same action the most likely one.

    Args:
        teacher_logits: of the teacher.
        student_logits: of the student.
    """
    return teacher_logits.argmax(-1) == student_logits.argmax(-1)
