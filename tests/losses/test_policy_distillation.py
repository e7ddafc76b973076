import math

import numpy as np
import pytest
import torch

from lightning_rl.losses.policy_distillation import is_same_choice, policy_divergence, proximal_divergence
from tests.support import reference
from tests.support.compare import Array, assert_matches, rounded, tensor

NUM_STEPS, NUM_ENVS, NUM_ACTIONS = 5, 3, 7
EPSILON = 0.2


def draw_logits(seed: int) -> Array:
    return rounded(np.random.default_rng(seed).normal(scale=1.5, size=(NUM_STEPS, NUM_ENVS, NUM_ACTIONS)))


TEACHER, STUDENT = draw_logits(1), draw_logits(2)


@pytest.mark.parametrize("temperature", [0.1, 1.0, 3.0])
def test_policy_divergence_matches_its_definition(temperature: float) -> None:
    divergence = policy_divergence(tensor(TEACHER), tensor(STUDENT), temperature=temperature)

    assert_matches(divergence, reference.kl_divergence(TEACHER / temperature, STUDENT))


def test_policy_divergence_of_the_same_policy_is_zero_and_of_another_positive() -> None:
    teacher = tensor(TEACHER)

    assert_matches(policy_divergence(teacher, teacher + 3), np.zeros((NUM_STEPS, NUM_ENVS)))
    assert (policy_divergence(teacher, tensor(STUDENT)) > 0).all()


def test_policy_divergence_is_the_cross_entropy_up_to_the_teachers_entropy() -> None:
    teacher = reference.probabilities(TEACHER)
    cross_entropy = -(teacher * np.log(reference.probabilities(STUDENT))).sum(-1)

    divergence = policy_divergence(tensor(TEACHER), tensor(STUDENT))

    assert_matches(divergence, cross_entropy - reference.entropy(TEACHER))


def test_policy_divergence_of_an_unlikely_action_is_finite() -> None:
    divergence = policy_divergence(torch.tensor([0.0, -1e4]), torch.tensor([-1e4, 0.0]))

    assert divergence.item() == pytest.approx(1e4)


def test_gradient_of_policy_divergence_is_the_difference_of_the_policies_and_reaches_the_student_only() -> None:
    teacher, student = tensor(TEACHER).requires_grad_(), tensor(STUDENT).requires_grad_()

    torch.autograd.backward(policy_divergence(teacher, student, temperature=2.0).sum())

    assert teacher.grad is None
    assert student.grad is not None
    assert_matches(student.grad, reference.probabilities(STUDENT) - reference.probabilities(TEACHER / 2))


# every ratio far below, just below, just above the clip of 0.2, and far above it, where nothing is clipped
RATIOS = np.array([0.3, 0.79, 0.81, 1.0, 1.3, 3.0])


def test_proximal_divergence_matches_its_definition() -> None:
    divergences = rounded(np.linspace(0.1, 0.6, len(RATIOS)))
    behavior = rounded(np.linspace(-3, -2, len(RATIOS)))
    log_probs = rounded(behavior + np.log(RATIOS))

    loss = proximal_divergence(
        tensor(divergences), log_probs=tensor(log_probs), behavior_log_probs=tensor(behavior), epsilon=EPSILON
    )

    expected = [
        max(math.exp(new - old), 1 - EPSILON) * divergence
        for new, old, divergence in zip(log_probs, behavior, divergences, strict=True)
    ]
    assert_matches(loss, np.array(expected))


def test_gradient_of_proximal_divergence_reaches_the_ratio_above_its_clip_only() -> None:
    log_probs = torch.from_numpy(np.log(RATIOS)).requires_grad_()
    behavior = torch.zeros(len(RATIOS), dtype=torch.float64, requires_grad=True)
    divergences = torch.full((len(RATIOS),), 0.5, dtype=torch.float64, requires_grad=True)

    loss = proximal_divergence(divergences, log_probs=log_probs, behavior_log_probs=behavior, epsilon=EPSILON)
    torch.autograd.backward(loss.sum())

    assert behavior.grad is None
    assert log_probs.grad is not None
    assert divergences.grad is not None
    expected = torch.from_numpy(np.where(RATIOS > 1 - EPSILON, 0.5 * RATIOS, 0.0))
    torch.testing.assert_close(log_probs.grad, expected)
    torch.testing.assert_close(divergences.grad, torch.from_numpy(np.maximum(RATIOS, 1 - EPSILON)))


def test_same_choice_compares_the_most_likely_actions() -> None:
    teacher = torch.tensor([[0.0, 2.0, 1.0], [3.0, 2.0, 1.0]])
    student = torch.tensor([[0.5, 0.6, 0.1], [0.0, 9.0, 1.0]])

    assert is_same_choice(teacher, student).tolist() == [True, False]
