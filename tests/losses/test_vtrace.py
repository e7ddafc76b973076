from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_rl.losses.returns import discounts_from, generalized_advantages
from lightning_rl.losses.vtrace import vtrace
from tests.support import reference
from tests.support.compare import assert_matches, rounded, tensor

GAMMA = 0.9
NUM_ENVS = 3


def draw(num_steps: int, seed: int = 0) -> dict[str, Any]:
    """Off-policy steps; one environment ends an episode inside the rollout."""
    generator = np.random.default_rng(seed)
    shape = (num_steps, NUM_ENVS)
    discounts = np.full(shape, GAMMA)
    discounts[num_steps // 3, 1] = 0
    return {
        "rewards": rounded(generator.normal(size=shape)),
        "discounts": rounded(discounts),
        "behavior_probabilities": generator.uniform(0.2, 0.8, size=shape),
        "probabilities": generator.uniform(0.2, 0.8, size=shape),
        "values": rounded(generator.normal(size=shape)),
        "next_values": rounded(generator.normal(size=shape)),
    }


def inputs(world: dict[str, Any]) -> dict[str, Any]:
    log_rhos = np.log(world["probabilities"] / world["behavior_probabilities"])
    return {k: tensor(v) for k, v in world.items() if "probabilities" not in k} | {"log_rhos": tensor(log_rhos)}


@pytest.mark.parametrize("clips", [(1.0, 1.0, 1.0), (0.7, 0.9, 1.3), (2.5, 1.1, 0.6), (9.0, 9.0, 9.0)])
@pytest.mark.parametrize("num_steps", [1, 5, 11])
def test_targets_and_advantages_match_their_definition(num_steps: int, clips: tuple[float, float, float]) -> None:
    world = draw(num_steps)
    bounds: dict[str, Any] = dict(zip(("max_rho", "max_c", "max_pg_rho"), clips, strict=True))

    found = vtrace(**inputs(world), **bounds)

    targets, advantages = reference.vtrace(**world, **bounds)
    assert_matches(found.targets, targets)
    assert_matches(found.advantages, advantages)


def worked_example(max_rho: float | None = 1.0, max_pg_rho: float | None = 1.0) -> tuple[Tensor, Tensor]:
    return vtrace(
        rewards=torch.tensor([[0.0], [1.0], [-1.0], [0.5], [2.0]]),
        discounts=discounts_from(torch.tensor([[False], [False], [True], [False], [False]]), GAMMA),
        log_rhos=torch.tensor([[0.3], [-0.5], [0.0], [1.0], [-0.2]]),
        values=torch.tensor([[0.2], [0.4], [-0.1], [0.3], [0.6]]),
        next_values=torch.tensor([[0.4], [-0.1], [0.3], [0.6], [0.7]]),
        max_rho=max_rho,
        max_pg_rho=max_pg_rho,
    )


def test_targets_and_advantages_of_a_worked_example() -> None:
    targets, advantages = worked_example()

    assert_matches(targets, np.array([[0.196237], [0.218041], [-1.0], [2.535821], [2.262023]]))
    assert_matches(advantages, np.array([[-0.003763], [-0.181959], [-0.9], [2.235821], [1.662023]]))


def test_without_bounds_the_ratios_are_not_clipped() -> None:
    unbounded, bounded = worked_example(max_rho=None, max_pg_rho=None), worked_example(max_rho=100.0, max_pg_rho=100.0)

    assert torch.equal(unbounded[0], bounded[0])
    assert torch.equal(unbounded[1], bounded[1])
    assert not torch.equal(unbounded[0], worked_example()[0])


def test_max_pg_rho_changes_the_advantages_only() -> None:
    targets, advantages = worked_example(max_pg_rho=None)

    assert torch.equal(targets, worked_example()[0])
    assert_matches(advantages[3], worked_example()[1][3].double().numpy() * np.e)  # the step with log ρ = 1


def test_with_equal_policies_targets_are_returns_and_advantages_are_gae_with_lambda_one() -> None:
    world = draw(num_steps=7)
    world["probabilities"] = world["behavior_probabilities"]
    world["next_values"][:-1] = world["values"][1:]
    given = inputs(world)

    targets, advantages = vtrace(**given)

    del given["log_rhos"]
    assert_matches(advantages, generalized_advantages(**given, lambda_=1.0).double().numpy())
    assert_matches(
        targets, reference.bootstrapped_returns(**{k: world[k] for k in ("rewards", "discounts", "next_values")})
    )


def test_steps_after_an_episode_end_do_not_change_those_before_it() -> None:
    world = draw(num_steps=7)
    world["discounts"][2] = 0
    changed = {key: value.copy() for key, value in world.items()}
    for key in ("rewards", "values", "next_values"):
        changed[key][3:] += 1

    before, after = vtrace(**inputs(world)), vtrace(**inputs(changed))

    assert torch.equal(before.targets[:3], after.targets[:3])
    assert torch.equal(before.advantages[:3], after.advantages[:3])
    assert not torch.equal(before.targets[3:], after.targets[3:])


def test_targets_and_advantages_carry_no_gradient() -> None:
    given = {key: value.requires_grad_() for key, value in inputs(draw(num_steps=5)).items()}

    targets, advantages = vtrace(**given)

    assert not targets.requires_grad
    assert not advantages.requires_grad
