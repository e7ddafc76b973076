from collections.abc import Iterator
from typing import Any

import pytest

from lightning_rl.data.collector import Collector
from lightning_rl.data.rollout_dataset import RolloutDataset
from lightning_rl.protocols import Policy, Source
from tests.support.policies import PixelPolicy
from tests.support.toys import CountingVectorEnv

NUM_ACTIONS = 5


class NumberingAgent(PixelPolicy):
    """Collects once an iteration and yields the numbers of its batches; `events` tells what happened when."""

    greedy = False
    on_policy = True
    uses_replay = False

    def __init__(self, declared: int, yielded: int) -> None:
        super().__init__(NUM_ACTIONS)
        self.declared = declared
        self.yielded = yielded
        self.sizes: list[tuple[int, int]] = []
        self.events: list[str] = []

    def yardsticks(self, game: str) -> dict[str, Policy]:
        return {}

    def check_finite(self) -> None:
        pass

    def batches_per_iteration(self, num_steps: int, num_envs: int) -> int:
        self.sizes.append((num_steps, num_envs))
        return self.declared

    def batches(self, source: Source) -> Iterator[Any]:
        source.collect(self)
        self.events.append("collected")
        yield from range(self.yielded)


def dataset_of(agent: NumberingAgent, iterations: int) -> tuple[RolloutDataset, Collector]:
    env = CountingVectorEnv(2, (3, 5), obs_shape=(4, 6, 3), num_actions=NUM_ACTIONS)
    collector = Collector(env, num_steps=7, seed=0)
    return RolloutDataset(agent, collector, iterations=iterations), collector


def test_the_length_is_the_number_of_batches() -> None:
    dataset, _ = dataset_of(NumberingAgent(5, 5), iterations=3)

    assert (len(dataset), list(dataset)) == (15, [0, 1, 2, 3, 4] * 3)


def test_the_agent_is_asked_for_the_size_of_one_rollout() -> None:
    agent = NumberingAgent(5, 5)

    dataset_of(agent, iterations=3)

    assert agent.sizes == [(7, 2)]


def test_nothing_is_collected_before_the_first_batch_is_asked_for() -> None:
    agent = NumberingAgent(2, 2)
    dataset, collector = dataset_of(agent, iterations=3)

    iter(dataset)

    assert (agent.events, collector.env_steps) == ([], 0)


def test_a_rollout_is_collected_after_the_last_batch_of_the_one_before() -> None:
    agent = NumberingAgent(2, 2)
    dataset, _ = dataset_of(agent, iterations=2)

    for _ in dataset:
        agent.events.append("learned")

    assert agent.events == ["collected", "learned", "learned"] * 2


def test_every_epoch_goes_on_where_the_last_one_ended() -> None:
    dataset, collector = dataset_of(NumberingAgent(2, 2), iterations=3)

    list(dataset)
    list(dataset)

    assert collector.env_steps == 2 * 3 * 7 * 2


@pytest.mark.parametrize("yielded", [1, 3])
def test_an_agent_that_yields_another_number_than_it_declared_is_named(yielded: int) -> None:
    dataset, _ = dataset_of(NumberingAgent(2, yielded), iterations=2)

    with pytest.raises(RuntimeError, match=f"NumberingAgent declared 2 batches per iteration and yielded {yielded}"):
        list(dataset)
