import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError

from lightning_rl.distributed.running_moments import RunningMoments
from lightning_rl.losses.returns import discounts_from, forward_discounted_sums, generalized_advantages, normalized
from tests.support import reference
from tests.support.compare import Array, assert_matches, rounded, tensor

GAMMA = 0.9
NUM_ENVS = 3


def draw(num_steps: int, seed: int = 0) -> dict[str, Array]:
    """A rollout with independent values and next values; one environment ends an episode inside it."""
    generator = np.random.default_rng(seed)
    shape = (num_steps, NUM_ENVS)
    discounts = np.full(shape, GAMMA)
    discounts[num_steps // 3, 1] = 0
    return {
        "rewards": rounded(generator.normal(size=shape)),
        "discounts": rounded(discounts),
        "values": rounded(generator.normal(size=shape)),
        "next_values": rounded(generator.normal(size=shape)),
    }


def test_discounts_are_gamma_inside_an_episode_and_zero_at_its_end() -> None:
    terminated = torch.tensor([[False, True, False], [True, False, False]])

    discounts = discounts_from(terminated, GAMMA)

    assert torch.equal(discounts, torch.tensor([[GAMMA, 0.0, GAMMA], [0.0, GAMMA, GAMMA]]))


@pytest.mark.parametrize("lambda_", [0.0, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("num_steps", [1, 5, 11])
def test_generalized_advantages_match_their_definition(num_steps: int, lambda_: float) -> None:
    world = draw(num_steps)
    assert (world["discounts"] == 0).any()

    advantages = generalized_advantages(**{k: tensor(v) for k, v in world.items()}, lambda_=lambda_)

    assert_matches(advantages, reference.generalized_advantages(**world, lambda_=lambda_))


def test_generalized_advantages_of_a_worked_example() -> None:
    terminated = torch.tensor([0, 0, 1, 0, 0], dtype=torch.bool)[:, None]

    advantages = generalized_advantages(
        rewards=torch.tensor([[0.0], [1.0], [-1.0], [0.5], [2.0]]),
        discounts=discounts_from(terminated, GAMMA),
        values=torch.tensor([[0.2], [0.4], [-0.1], [0.3], [0.6]]),
        next_values=torch.tensor([[0.4], [-0.1], [0.3], [0.6], [0.7]]),
        lambda_=0.95,
    )

    assert_matches(advantages, np.array([[-0.0618724], [-0.2595], [-0.9], [2.47565], [2.03]]))


def test_generalized_advantages_with_lambda_zero_are_temporal_differences() -> None:
    world = draw(num_steps=5)

    advantages = generalized_advantages(**{k: tensor(v) for k, v in world.items()}, lambda_=0.0)

    assert_matches(advantages, reference.temporal_differences(**world))


def test_generalized_advantages_with_lambda_one_are_bootstrapped_returns_minus_values() -> None:
    world = draw(num_steps=5)
    world["next_values"][:-1] = world["values"][1:]

    advantages = generalized_advantages(**{k: tensor(v) for k, v in world.items()}, lambda_=1.0)

    returns = reference.bootstrapped_returns(**{k: v for k, v in world.items() if k != "values"})
    assert_matches(advantages, returns - world["values"])


def test_generalized_advantages_of_two_joined_episodes_are_those_of_each() -> None:
    first, second = draw(num_steps=5, seed=1), draw(num_steps=7, seed=2)
    first["discounts"][-1] = 0
    joined = {k: np.concatenate([first[k], second[k]]) for k in first}

    together, early, late = (
        generalized_advantages(**{k: tensor(v) for k, v in world.items()}, lambda_=0.95)
        for world in (joined, first, second)
    )

    assert early.shape == (5, NUM_ENVS)
    assert late.shape == (7, NUM_ENVS)
    assert torch.equal(together[:5], early)
    assert torch.equal(together[5:], late)


@pytest.mark.parametrize(("gamma", "lambda_"), [(0.999, 0.95), (0.9, 0.5), (0.5, 1.0)])
def test_sum_of_both_streams_advantages_is_the_papers_combined_estimate(gamma: float, lambda_: float) -> None:
    extrinsic, intrinsic = draw(num_steps=11, seed=3), draw(num_steps=11, seed=4)
    done = (extrinsic["discounts"] == 0).astype(np.float64)
    discounts = discounts_from(torch.from_numpy(done).bool(), gamma)

    extrinsic_advantages, intrinsic_advantages = (
        generalized_advantages(
            **{k: tensor(v) for k, v in stream.items() if k != "discounts"}, discounts=discounts, lambda_=lambda_
        )
        for stream in (extrinsic, intrinsic)
    )

    expected = reference.combined_advantages(
        rewards=(extrinsic["rewards"], intrinsic["rewards"]),
        values=(extrinsic["values"], intrinsic["values"]),
        next_values=(extrinsic["next_values"], intrinsic["next_values"]),
        done=done,
        gamma=gamma,
        lambda_=lambda_,
    )
    assert_matches(extrinsic_advantages + intrinsic_advantages, expected)


def test_generalized_advantages_carry_no_gradient() -> None:
    world = {k: tensor(v).requires_grad_() for k, v in draw(num_steps=5).items()}

    advantages = generalized_advantages(**world, lambda_=0.95)

    assert not advantages.requires_grad


def test_transposed_values_are_refused() -> None:
    world = {k: tensor(v) for k, v in draw(num_steps=5).items()}
    world["values"] = world["values"].T

    with pytest.raises(TypeCheckError):
        generalized_advantages(**world, lambda_=0.95)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 100.0])
def test_normalized_advantages_match_their_definition(scale: float) -> None:
    advantages = rounded(scale * np.random.default_rng(5).normal(loc=2, size=(5, NUM_ENVS)))

    assert_matches(normalized(tensor(advantages)), reference.normalized(advantages))


def test_normalized_advantages_use_the_population_std() -> None:
    assert torch.equal(normalized(torch.tensor([1.0, 3.0])), torch.tensor([-1.0, 1.0]))


def test_normalized_advantages_with_std_1e_8_are_halved_by_the_constant() -> None:
    advantages = torch.tensor([-1e-8, 1e-8], dtype=torch.float64)

    torch.testing.assert_close(normalized(advantages), torch.tensor([-0.5, 0.5], dtype=torch.float64))


def test_normalized_advantages_of_a_part_use_the_moments_of_the_whole() -> None:
    whole = rounded(3 * np.random.default_rng(7).normal(loc=2, size=(7, NUM_ENVS)))
    moments = RunningMoments(mean=float(whole.mean()), variance=float(whole.var()), weight=float(whole.size))

    assert_matches(normalized(tensor(whole[:5]), moments), reference.normalized(whole)[:5])


@pytest.mark.parametrize("shape", [(1,), (5, 3)])
def test_normalized_advantages_are_zero_if_all_are_equal(shape: tuple[int, ...]) -> None:
    assert torch.equal(normalized(torch.full(shape, 2.0)), torch.zeros(shape))


def test_normalized_advantages_carry_no_gradient() -> None:
    assert not normalized(torch.tensor([1.0, 3.0], requires_grad=True)).requires_grad


@pytest.mark.parametrize("num_steps", [1, 5, 11])
def test_forward_discounted_sums_match_their_definition(num_steps: int) -> None:
    generator = np.random.default_rng(6)
    rewards, start = rounded(generator.normal(size=(num_steps, NUM_ENVS))), rounded(generator.normal(size=NUM_ENVS))

    sums = forward_discounted_sums(tensor(rewards), tensor(start), GAMMA)

    assert_matches(sums, reference.forward_discounted_sums(rewards, start, GAMMA))


def test_forward_discounted_sums_of_a_worked_example() -> None:
    rewards = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], dtype=torch.float64)

    sums = forward_discounted_sums(rewards, torch.zeros(2, dtype=torch.float64), 0.99)

    assert sums.dtype == torch.float64
    torch.testing.assert_close(sums, torch.tensor([[1.0, 2.0], [3.99, 5.98], [8.9501, 11.9202]], dtype=torch.float64))


def test_running_variance_of_forward_discounted_sums_of_a_worked_example() -> None:
    rewards = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], dtype=torch.float64)

    sums = forward_discounted_sums(rewards, torch.zeros(2, dtype=torch.float64), 0.99)
    variance = sums.var(correction=0).item()
    running = RunningMoments().merged(RunningMoments(sums.mean().item(), variance, sums.numel()))

    assert f"{variance:.6f}" == "14.669162"  # of the six numbers alone
    assert f"{running.variance:.6f}" == "14.669465"  # with RND's initial pseudo-observation


def test_forward_discounted_sums_continue_across_rollouts() -> None:
    rewards = torch.from_numpy(np.random.default_rng(7).normal(size=(11, NUM_ENVS)))
    start = torch.zeros(NUM_ENVS, dtype=torch.float64)

    whole = forward_discounted_sums(rewards, start, 0.99)
    early = forward_discounted_sums(rewards[:5], start, 0.99)
    late = forward_discounted_sums(rewards[5:], early[-1], 0.99)

    assert early.shape == (5, NUM_ENVS)
    assert late.shape == (6, NUM_ENVS)
    assert torch.equal(torch.cat([early, late]), whole)


def test_forward_discounted_sums_keep_the_precision_of_their_start() -> None:
    start = torch.full((NUM_ENVS,), 1 / 3, dtype=torch.float64)

    sums = forward_discounted_sums(torch.zeros(1, NUM_ENVS), start, 0.99)

    assert torch.equal(sums[0], 0.99 * start)


def test_forward_discounted_sums_carry_no_gradient() -> None:
    rewards = torch.ones(5, NUM_ENVS, requires_grad=True)

    assert not forward_discounted_sums(rewards, torch.zeros(NUM_ENVS), 0.99).requires_grad
