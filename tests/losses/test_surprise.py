import numpy as np
import pytest
import torch

from lightning_rl.losses.surprise import MAX_ABS_REWARD, StateStatistics, surprise_minimizing_rewards
from tests.support import reference
from tests.support.compare import Array, rounded, tensor
from tests.support.reference import Integers

T, B, Z = 11, 3, 5


def draw(seed: int = 0) -> tuple[Array, Integers, Array]:
    """States, ends, and the states of the beginning; environment 1 ends at the first step, 0 in the middle, 2 never."""
    generator = np.random.default_rng(seed)
    terminated = np.zeros((T, B), dtype=np.int64)
    terminated[[0, 4], [1, 0]] = 1
    return rounded(generator.normal(size=(T, B, Z))), terminated, rounded(generator.normal(size=(B, Z)))


@pytest.mark.parametrize("min_std", [0.3, 1.0])
def test_rewards_match_their_definition(min_std: float) -> None:
    states, terminated, first = draw()

    rewards, _ = surprise_minimizing_rewards(
        tensor(states), torch.from_numpy(terminated).bool(), StateStatistics.initial(tensor(first)), min_std=min_std
    )

    expected = reference.surprise_minimizing_rewards(states, terminated, first, min_std)
    assert (expected == 0).sum() == 2
    torch.testing.assert_close(rewards.double(), torch.from_numpy(expected), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("cut", [1, 4, 5, 10])
def test_rewards_continue_across_rollouts_of_one_episode(cut: int) -> None:
    states, terminated, first = draw()
    ends = torch.from_numpy(terminated).bool()
    whole, _ = surprise_minimizing_rewards(tensor(states), ends, StateStatistics.initial(tensor(first)), min_std=0.3)

    early, visited = surprise_minimizing_rewards(
        tensor(states)[:cut], ends[:cut], StateStatistics.initial(tensor(first)), min_std=0.3
    )
    late, _ = surprise_minimizing_rewards(tensor(states)[cut:], ends[cut:], visited, min_std=0.3)

    assert torch.equal(torch.cat([early, late]), whole)


def test_a_familiar_state_has_a_higher_reward_than_a_new_one() -> None:
    states = torch.zeros(2, 1, Z)
    states[1] = 3.0

    rewards, _ = surprise_minimizing_rewards(
        states, torch.zeros(2, 1, dtype=torch.bool), StateStatistics.initial(torch.zeros(1, Z)), min_std=0.5
    )

    assert rewards[0, 0] > rewards[1, 0]


def test_rewards_are_clipped_to_their_bound() -> None:
    rewards, _ = surprise_minimizing_rewards(
        torch.full((1, 1, Z), 1e6),
        torch.zeros(1, 1, dtype=torch.bool),
        StateStatistics.initial(torch.zeros(1, Z)),
        min_std=1e-3,
    )

    assert rewards.tolist() == [[-MAX_ABS_REWARD]]
