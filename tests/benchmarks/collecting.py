"""What collecting adds to stepping the games: `python -m tests.benchmarks.collecting`.

A `Collector` with a random policy over the training environment's wrappers, against Procgen's own binding that takes
the same actions in the same games; the frames at the end must be equal. Ratios of env steps per second, wanted: 0.85.

The allocator is told what the command tells it first; `--default-allocator` leaves it alone, and then the kernel clears
every page of every rollout's frames, which costs more than all the rest that collecting adds.
"""

import argparse
import time
from importlib import import_module
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lightning_rl.cpu import allocator
from lightning_rl.data.collector import Collector
from lightning_rl.data.evaluation_dataset import UniformPolicy
from lightning_rl.envs.normalize import ReturnScaling
from lightning_rl.envs.procgen import ProcgenVectorEnv
from lightning_rl.envs.procgen_games import NUM_ACTIONS
from lightning_rl.envs.statistics import EpisodeStatistics
from tests.benchmarks import measure

WANTED = 0.85
_SEED = 1


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m tests.benchmarks.collecting", description=__doc__)
    result.add_argument("--games", nargs="+", default=["starpilot", "coinrun", "bossfight"])
    result.add_argument("--rounds", type=measure.positive, default=7, help="how often to compare, after a warm-up")
    result.add_argument("--num-envs", type=measure.positive, default=64)
    result.add_argument("--num-steps", type=measure.positive, default=256)
    result.add_argument("--num-threads", type=int, default=0, help="Procgen's own, of both sides")
    result.add_argument("--default-allocator", action="store_true", help="as in a program that uses the classes alone")
    return result


class Comparison:
    """The same games twice: behind a collector, and bare.

    Args:
        game: on its 200 easy levels.
        num_envs: games.
        num_steps: steps of each in a round.
        num_threads: that play the games.
    """

    def __init__(self, game: str, *, num_envs: int, num_steps: int, num_threads: int) -> None:
        env = ProcgenVectorEnv(game, num_envs=num_envs, num_levels=200, seed=_SEED, num_threads=num_threads, copy=False)
        self._collector = Collector(EpisodeStatistics(ReturnScaling(env)), num_steps=num_steps, seed=_SEED)
        # after the environment, which imports Procgen without the notice that gym prints
        self._games: Any = import_module("procgen").ProcgenGym3Env(
            num=num_envs,
            env_name=game,
            distribution_mode="easy",
            num_levels=200,
            start_level=0,
            rand_seed=_SEED,
            num_threads=num_threads,
        )

    def round(self, *, collector_first: bool) -> tuple[float, float]:
        """Env steps per second of the collector and of the games alone.

        Raises:
            RuntimeError: the two played different games, so the figures cannot be compared.
        """
        actions = self._coming_actions()
        if collector_first:
            frames, collecting = self._collected()
            last_frames, stepping = self._stepped(actions)
        else:
            last_frames, stepping = self._stepped(actions)
            frames, collecting = self._collected()
        if not np.array_equal(frames, last_frames):
            raise RuntimeError("the collector and the games alone must end on the same frames, and did not")
        return collecting, stepping

    def close(self) -> None:
        """Ends the games."""
        self._collector.close()
        self._games.close()

    def _coming_actions(self) -> list[NDArray[np.int64]]:
        """What the random policy will do, without drawing from its stream."""
        generator = self._collector.generator.clone_state()
        shape = (self._collector.num_envs,)
        return [
            torch.randint(NUM_ACTIONS, shape, generator=generator).numpy() for _ in range(self._collector.num_steps)
        ]

    def _collected(self) -> tuple[NDArray[np.uint8], float]:
        start = time.perf_counter()
        rollout = self._collector.collect(UniformPolicy(NUM_ACTIONS))
        seconds = time.perf_counter() - start
        return rollout.obs[-1].numpy(), rollout.actions.numel() / seconds

    def _stepped(self, actions: list[NDArray[np.int64]]) -> tuple[NDArray[np.uint8], float]:
        start = time.perf_counter()
        for action in actions:
            self._games.act(action)
            _, obs, _ = self._games.observe()
        seconds = time.perf_counter() - start
        return obs["rgb"], len(actions) * self._collector.num_envs / seconds


def main(arguments: list[str] | None = None) -> None:
    """Measures and prints."""
    options = parser().parse_args(arguments)
    if not options.default_allocator:
        allocator.keep_freed_memory()
    print(f"processor  {measure.processor()}")
    print(
        f"setting    {options.num_envs} games × {options.num_steps} steps, {options.num_threads} threads of Procgen's"
    )
    for game in options.games:
        comparison = Comparison(
            game, num_envs=options.num_envs, num_steps=options.num_steps, num_threads=options.num_threads
        )
        comparison.round(collector_first=True)
        pairs = [comparison.round(collector_first=number % 2 == 0) for number in range(options.rounds)]
        comparison.close()
        ratios = measure.Ratios(pairs=pairs)
        collecting, stepping = (median(column) for column in zip(*pairs, strict=True))
        print(
            f"{game:<10} collector {collecting:.0f} env steps/s, games alone {stepping:.0f}; ratio {ratios}"
            f" ({'at least' if median(ratios.each) >= WANTED else 'BELOW'} {WANTED})",
            flush=True,
        )


if __name__ == "__main__":
    main()
