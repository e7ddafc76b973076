import math

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from lightning_rl.losses.value import clipped_value_loss, squared_value_loss
from tests.support import reference
from tests.support.compare import Array, assert_matches, rounded, tensor

EPSILON = 0.2


def crossing() -> dict[str, Array]:
    """Values that moved up, down, little and much, with targets below, between and above: one row per target."""
    moves = np.array([-1.0, -0.3, -0.1, 0.05, 0.15, 0.25, 2.0])
    targets = np.array([-1.5, -0.24, 0.1, 0.3, 3.0])
    behavior_values = np.tile(np.linspace(-0.5, 0.5, len(moves)), (len(targets), 1))
    return {
        "values": rounded(behavior_values + moves),
        "behavior_values": rounded(behavior_values),
        "targets": rounded(behavior_values + targets[:, None]),
    }


def test_squared_value_loss_matches_its_definition() -> None:
    world = crossing()

    loss = squared_value_loss(tensor(world["values"]), tensor(world["targets"]))

    assert_matches(loss, reference.squared_value_loss(world["values"], world["targets"]))


def test_gradient_of_squared_value_loss_is_the_error_and_reaches_values_only() -> None:
    world = crossing()
    values, targets = tensor(world["values"]).requires_grad_(), tensor(world["targets"]).requires_grad_()

    torch.autograd.backward(squared_value_loss(values, targets).sum())

    assert values.grad is not None
    assert_matches(values.grad, world["values"] - world["targets"])
    assert targets.grad is None


def test_squared_value_loss_of_values_with_an_extra_axis_is_refused() -> None:
    with pytest.raises(TypeCheckError):
        squared_value_loss(torch.zeros(5, 1), torch.zeros(5))


@pytest.mark.parametrize("epsilon", [0.1, EPSILON, 1.0, math.inf])
def test_clipped_value_loss_matches_its_definition(epsilon: float) -> None:
    world = crossing()

    loss = clipped_value_loss(**{k: tensor(v) for k, v in world.items()}, epsilon=epsilon)

    assert_matches(loss, reference.clipped_value_loss(**world, epsilon=epsilon))


def test_clipped_value_loss_without_clip_is_the_squared_value_loss() -> None:
    world = crossing()

    loss = clipped_value_loss(**{k: tensor(v) for k, v in world.items()}, epsilon=math.inf)

    assert_matches(loss, reference.squared_value_loss(world["values"], world["targets"]))


def test_gradient_of_clipped_value_loss_stops_only_where_the_clipped_value_is_further_from_the_target() -> None:
    world = crossing()
    leaves = {k: tensor(v).requires_grad_() for k, v in world.items()}

    torch.autograd.backward(clipped_value_loss(**leaves, epsilon=EPSILON).sum())

    errors = world["values"] - world["targets"]
    moves = world["values"] - world["behavior_values"]
    clipped_errors = world["behavior_values"] + np.clip(moves, -EPSILON, EPSILON) - world["targets"]
    stopped = np.abs(clipped_errors) > np.abs(errors) + 1e-6  # rounding tells the two apart where nothing is clipped
    assert stopped.any()
    assert (~stopped & (np.abs(moves) > EPSILON)).any()
    assert leaves["values"].grad is not None
    assert_matches(leaves["values"].grad, np.where(stopped, 0, errors))
    assert {name for name, leaf in leaves.items() if leaf.grad is not None} == {"values"}


def test_value_losses_agree_with_finite_differences() -> None:
    values, behavior_values, targets = (torch.from_numpy(numbers) for numbers in crossing().values())

    def clipped_of(values: Tensor) -> Tensor:
        return clipped_value_loss(values=values, behavior_values=behavior_values, targets=targets, epsilon=EPSILON)

    assert torch.autograd.gradcheck(lambda v: squared_value_loss(v, targets), values.requires_grad_())
    assert torch.autograd.gradcheck(clipped_of, values.requires_grad_())
