"""The connector between Lightning's loop and the agent's iterations."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import IterableDataset

from lightning_rl.data.actor_pool import ActorPool
from lightning_rl.data.collector import Collector
from lightning_rl.protocols import Agent


class RolloutDataset(IterableDataset[Any]):
    """One epoch of batches: `iterations` times, collect and learn.

    It has a length, so that Lightning never fetches a rollout before the update that it depends on: without one, the
    Trainer prefetches a batch to learn whether it is the last, and every rollout would be one update stale.

    Args:
        agent: turns rollouts into batches.
        collector: makes rollouts.
        iterations: iterations of one epoch.

    Raises:
        FloatingPointError: a loss of an iteration was not finite; the next rollout is then not collected.
        RuntimeError: the agent yields another number of batches than it declares.
    """

    def __init__(self, agent: Agent, collector: Collector | ActorPool, *, iterations: int) -> None:
        self._agent = agent
        self._collector = collector
        self._iterations = iterations
        self._per_iteration = agent.batches_per_iteration(collector.num_steps, collector.num_envs)

    def __len__(self) -> int:
        return self._iterations * self._per_iteration

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self._iterations):
            self._agent.check_finite()  # what is not would make the next rollout, too
            yielded = 0
            for batch in self._agent.batches(self._collector):
                yielded += 1
                yield batch
            if yielded != self._per_iteration:
                raise RuntimeError(
                    f"{type(self._agent).__name__} declared {self._per_iteration} batches per iteration and yielded"
                    f" {yielded}; batches() and batches_per_iteration() disagree"
                )
