import math

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from lightning_rl.losses.policy import (
    approx_kl,
    clip_fraction,
    clipped_surrogate_loss,
    entropy,
    log_probs_of,
    policy_gradient_loss,
)
from tests.support import reference
from tests.support.compare import Array, assert_matches, rounded, tensor

NUM_STEPS, NUM_ENVS, NUM_ACTIONS = 5, 3, 7
EPSILON = 0.2

# every ratio far below, just below, inside, just above and far above the clip of 0.2, with both signs of advantage
RATIOS = np.array([0.3, 0.79, 0.81, 0.95, 1.0, 1.1, 1.19, 1.21, 3.0])


def draw_logits(seed: int) -> Array:
    return rounded(np.random.default_rng(seed).normal(scale=1.5, size=(NUM_STEPS, NUM_ENVS, NUM_ACTIONS)))


def draw_actions() -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(NUM_ACTIONS, size=(NUM_STEPS, NUM_ENVS)))


def crossing() -> dict[str, Array]:
    """Log-probabilities whose ratios cross both clip bounds, with a positive and a negative advantage for each."""
    behavior_log_probs = np.tile(np.linspace(-3, -2, len(RATIOS)), (2, 1))
    return {
        "log_probs": rounded(behavior_log_probs + np.log(RATIOS)),
        "behavior_log_probs": rounded(behavior_log_probs),
        "advantages": rounded(np.stack([np.full(len(RATIOS), 1.5), np.full(len(RATIOS), -0.7)])),
    }


def test_log_probs_of_actions_match_their_definition() -> None:
    logits, actions = draw_logits(seed=1), draw_actions()

    assert_matches(log_probs_of(actions, tensor(logits)), reference.log_probs_of(actions.numpy(), logits))


def test_log_probs_of_every_action_are_those_of_a_distribution() -> None:
    logits = tensor(draw_logits(seed=1))
    every_action = torch.arange(NUM_ACTIONS).expand(NUM_STEPS, NUM_ENVS, NUM_ACTIONS)

    log_probs = log_probs_of(every_action, logits.unsqueeze(-2).expand(-1, -1, NUM_ACTIONS, -1))

    assert_matches(log_probs.exp().sum(-1), np.ones((NUM_STEPS, NUM_ENVS)))


def test_log_probs_of_huge_logits_are_finite() -> None:
    log_probs = log_probs_of(torch.tensor([0, 1]), torch.tensor([[1e4, 0.0], [1e4, 0.0]]))

    assert torch.equal(log_probs, torch.tensor([0.0, -1e4]))


def test_gradient_of_log_probs_is_one_hot_minus_softmax() -> None:
    logits, actions = draw_logits(seed=1), draw_actions()
    leaf = tensor(logits).requires_grad_()

    torch.autograd.backward(log_probs_of(actions, leaf).sum())

    assert leaf.grad is not None
    assert_matches(leaf.grad, np.eye(NUM_ACTIONS)[actions.numpy()] - reference.probabilities(logits))


def test_log_probs_of_actions_of_another_batch_are_refused() -> None:
    with pytest.raises(TypeCheckError):
        log_probs_of(draw_actions().T, tensor(draw_logits(seed=1)))


def test_entropy_matches_its_definition() -> None:
    logits = draw_logits(seed=1)

    assert_matches(entropy(tensor(logits)), reference.entropy(logits))


def test_entropy_of_uniform_logits_is_the_log_of_the_number_of_actions() -> None:
    assert_matches(entropy(torch.full((NUM_ENVS, NUM_ACTIONS), 4.0)), np.full(NUM_ENVS, math.log(NUM_ACTIONS)))


def test_gradient_of_entropy_is_minus_probability_times_log_probability_plus_entropy() -> None:
    logits = draw_logits(seed=1)
    leaf = tensor(logits).requires_grad_()

    torch.autograd.backward(entropy(leaf).sum())

    probs = reference.probabilities(logits)
    assert leaf.grad is not None
    assert_matches(leaf.grad, -probs * (np.log(probs) + reference.entropy(logits)[..., None]))


def test_policy_gradients_agree_with_finite_differences() -> None:
    logits = torch.from_numpy(draw_logits(seed=1)).requires_grad_()
    actions = draw_actions()

    assert torch.autograd.gradcheck(lambda z: log_probs_of(actions, z), logits)
    assert torch.autograd.gradcheck(entropy, logits)


@pytest.mark.parametrize("epsilon", [0.1, EPSILON, 0.5, math.inf])
def test_clipped_surrogate_loss_matches_its_definition(epsilon: float) -> None:
    world = crossing()

    loss = clipped_surrogate_loss(**{k: tensor(v) for k, v in world.items()}, epsilon=epsilon)

    assert_matches(loss, -reference.clipped_surrogate(**world, epsilon=epsilon))


def test_clipped_surrogate_loss_without_clip_is_minus_ratio_times_advantage() -> None:
    world = crossing()

    loss = clipped_surrogate_loss(**{k: tensor(v) for k, v in world.items()}, epsilon=math.inf)

    assert_matches(loss, -RATIOS * world["advantages"])


def test_clipped_surrogate_loss_with_equal_policies_is_minus_the_advantage() -> None:
    world = crossing()
    log_probs, advantages = tensor(world["log_probs"]), tensor(world["advantages"])

    loss = clipped_surrogate_loss(
        log_probs=log_probs, behavior_log_probs=log_probs, advantages=advantages, epsilon=EPSILON
    )

    assert torch.equal(loss, -advantages)


def test_gradient_of_clipped_surrogate_loss_with_equal_policies_is_the_policy_gradient() -> None:
    logits, actions = draw_logits(seed=1), draw_actions()
    advantages = rounded(np.random.default_rng(2).normal(size=(NUM_STEPS, NUM_ENVS)))
    leaf = tensor(logits).requires_grad_()
    log_probs = log_probs_of(actions, leaf)

    loss = clipped_surrogate_loss(
        log_probs=log_probs, behavior_log_probs=log_probs, advantages=tensor(advantages), epsilon=EPSILON
    )
    torch.autograd.backward(loss.sum())

    errors = reference.probabilities(logits) - np.eye(NUM_ACTIONS)[actions.numpy()]
    assert leaf.grad is not None
    assert_matches(leaf.grad, errors * advantages[..., None])


def test_gradient_of_clipped_surrogate_loss_is_zero_only_where_the_ratio_is_clipped_in_the_favored_direction() -> None:
    world = crossing()
    leaf = tensor(world["log_probs"]).requires_grad_()

    loss = clipped_surrogate_loss(
        log_probs=leaf,
        behavior_log_probs=tensor(world["behavior_log_probs"]),
        advantages=tensor(world["advantages"]),
        epsilon=EPSILON,
    )
    torch.autograd.backward(loss.sum())

    moved = np.stack([RATIOS > 1 + EPSILON, RATIOS < 1 - EPSILON])
    assert leaf.grad is not None
    assert_matches(leaf.grad, np.where(moved, 0, -RATIOS * world["advantages"]))


def test_clipped_surrogate_loss_agrees_with_finite_differences() -> None:
    log_probs, behavior_log_probs, advantages = (torch.from_numpy(numbers) for numbers in crossing().values())

    def loss_of(log_probs: Tensor) -> Tensor:
        return clipped_surrogate_loss(
            log_probs=log_probs, behavior_log_probs=behavior_log_probs, advantages=advantages, epsilon=EPSILON
        )

    assert torch.autograd.gradcheck(loss_of, log_probs.requires_grad_())


def test_clipped_surrogate_loss_gives_no_gradient_to_behavior_and_advantages() -> None:
    world = {k: tensor(v).requires_grad_() for k, v in crossing().items()}

    torch.autograd.backward(clipped_surrogate_loss(**world, epsilon=EPSILON).sum())

    assert {name for name, leaf in world.items() if leaf.grad is not None} == {"log_probs"}


def test_clipped_surrogate_loss_of_advantages_with_an_extra_axis_is_refused() -> None:
    world = {k: tensor(v) for k, v in crossing().items()}
    world["advantages"] = world["advantages"].unsqueeze(-1)

    with pytest.raises(TypeCheckError):
        clipped_surrogate_loss(**world, epsilon=EPSILON)


def test_approx_kl_matches_its_definition() -> None:
    world = {k: v for k, v in crossing().items() if k != "advantages"}

    assert_matches(approx_kl(**{k: tensor(v) for k, v in world.items()}), reference.approx_kl(**world))


def test_approx_kl_averaged_over_behavior_actions_is_the_kl_divergence() -> None:
    behavior_logits, target_logits = draw_logits(seed=1), draw_logits(seed=2)

    estimates = approx_kl(
        log_probs=tensor(target_logits).log_softmax(-1), behavior_log_probs=tensor(behavior_logits).log_softmax(-1)
    )

    mean = (tensor(reference.probabilities(behavior_logits)) * estimates).sum(-1)
    assert_matches(mean, reference.kl_divergence(behavior_logits, target_logits))


def test_approx_kl_of_a_small_step_is_not_lost_to_rounding() -> None:
    step = 2.0**-12

    kl = approx_kl(log_probs=torch.tensor([step]), behavior_log_probs=torch.zeros(1))

    # r − 1 and log r are near 2e-4 with relative error 2^-24, so their difference has 1e-3; with exp it would have 1
    torch.testing.assert_close(kl, torch.tensor([step**2 / 2]), rtol=2e-3, atol=0.0)


def test_approx_kl_carries_no_gradient() -> None:
    log_probs = torch.tensor([-1.0, -2.0], requires_grad=True)

    assert not approx_kl(log_probs=log_probs, behavior_log_probs=log_probs).requires_grad


def test_clip_fraction_marks_ratios_outside_both_bounds() -> None:
    world = crossing()

    outside = clip_fraction(
        log_probs=tensor(world["log_probs"]),
        behavior_log_probs=tensor(world["behavior_log_probs"]),
        epsilon=EPSILON,
    )

    assert torch.equal(outside, torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0]).expand(2, -1))


def test_clip_fraction_carries_no_gradient() -> None:
    log_probs = torch.tensor([-1.0, -2.0], requires_grad=True)

    assert not clip_fraction(log_probs=log_probs, behavior_log_probs=log_probs, epsilon=EPSILON).requires_grad


def test_policy_gradient_is_the_advantage_times_one_hot_minus_softmax() -> None:
    logits, actions = tensor(draw_logits(seed=1)).requires_grad_(), draw_actions()
    advantages = torch.from_numpy(np.random.default_rng(3).normal(size=actions.shape)).to(logits)
    advantages.requires_grad_()

    loss = policy_gradient_loss(log_probs_of(actions, logits), advantages)
    loss.sum().backward()

    softmax = torch.from_numpy(np.exp(draw_logits(seed=1)))
    softmax /= softmax.sum(-1, keepdim=True)
    one_hot = torch.nn.functional.one_hot(actions, NUM_ACTIONS)
    assert loss.shape == actions.shape
    assert advantages.grad is None
    assert logits.grad is not None
    assert_matches(logits.grad, ((softmax - one_hot) * advantages.detach().unsqueeze(-1)).numpy())


@pytest.mark.parametrize("log_ratio", [85.0, 89.0, 1e4, -1e4])
@pytest.mark.parametrize("advantage", [-0.7, 0.0, 1.5])
def test_a_ratio_beyond_what_exp_can_hold_gives_finite_loss_and_gradient(log_ratio: float, advantage: float) -> None:
    behavior_log_probs = torch.full((3,), -1e4)
    log_probs = (behavior_log_probs + log_ratio).requires_grad_()
    ratios = {"log_probs": log_probs, "behavior_log_probs": behavior_log_probs}

    loss = clipped_surrogate_loss(**ratios, advantages=torch.full((3,), advantage), epsilon=EPSILON)
    loss.sum().backward()

    assert log_probs.grad is not None
    assert loss.isfinite().all()
    assert log_probs.grad.isfinite().all()
    assert approx_kl(**ratios).isfinite().all()
    if advantage > 0 and log_ratio > 0:
        assert_matches(loss.detach(), np.full(3, -1.5 * (1 + EPSILON)))
        assert not log_probs.grad.any()
