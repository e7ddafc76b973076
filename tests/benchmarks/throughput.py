"""Training speed against Stable-Baselines3: `python -m tests.benchmarks.throughput`.

Both play the same games and train the same network with the same numbers. Each runs in a process of its own, one after
the other, ours first in every pair. A figure is the median of env steps per second over the iterations after the first,
each with all of its collecting and learning.

Needs `pip install -e .[bench]`.
"""

import argparse
import json
import tempfile
from importlib import import_module
from pathlib import Path
from statistics import median
from typing import Any

import torch

from tests.benchmarks import measure

_SIDES = ("lightning_rl", "stable_baselines3")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m tests.benchmarks.throughput", description=__doc__)
    result.add_argument("--pairs", type=measure.positive, default=3, help="how often to compare")
    result.add_argument("--iterations", type=measure.positive, default=2, help="measured, after one that is not")
    result.add_argument("--num-envs", type=measure.positive, default=24)
    result.add_argument("--num-steps", type=measure.positive, default=256)
    result.add_argument("--minibatch-size", type=measure.positive, default=2048, help="at most the rollout is taken")
    result.add_argument("--epochs", type=measure.positive, default=2)
    result.add_argument("--game", default="starpilot")
    result.add_argument("--side", choices=_SIDES, help="measure one side in this process and print it as JSON")
    return result


def sizes(options: argparse.Namespace) -> dict[str, int]:
    """What both sides train with."""
    minibatch_size = min(options.minibatch_size, options.num_envs * options.num_steps)
    return {
        "num_envs": options.num_envs,
        "num_steps": options.num_steps,
        "minibatch_size": minibatch_size,
        "epochs": options.epochs,
    }


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """One side, in this process: its rate and torch's threads before anything set them."""
    num_threads = torch.get_num_threads()
    iterations = 1 + options.iterations
    if options.side == _SIDES[0]:
        with tempfile.TemporaryDirectory() as folder:
            found = measure.fit(Path(folder) / "run", game=options.game, iterations=iterations, **sizes(options))
    else:
        peer = import_module("tests.benchmarks.peer")  # only this process needs the `bench` extra
        found = peer.rates(options.game, iterations=iterations, **sizes(options))
    return {"env_steps_per_second": median(found[1:]), "torch_threads": num_threads}


def main(arguments: list[str] | None = None) -> None:
    """Measures and prints."""
    options = parser().parse_args(arguments)
    if options.side is not None:
        print(json.dumps(measured(options)))
        return
    print(f"processor  {measure.processor()}")
    print(f"setting    {options.game}, easy-200, {sizes(options)}, {options.iterations} iterations measured")
    same = {"iterations": options.iterations, "game": options.game, **sizes(options)}
    passed = [part for key, value in same.items() for part in (f"--{key.replace('_', '-')}", str(value))]
    pairs = []
    for number in range(1, options.pairs + 1):
        ours, peers = (measure.in_fresh_process("tests.benchmarks.throughput", ["--side", s, *passed]) for s in _SIDES)
        pairs.append((ours["env_steps_per_second"], peers["env_steps_per_second"]))
        print(
            f"pair {number}     lightning_rl {pairs[-1][0]:.0f} env steps/s, stable_baselines3 {pairs[-1][1]:.0f}"
            f" ({peers['torch_threads']} torch threads), ratio {pairs[-1][0] / pairs[-1][1]:.2f}",
            flush=True,
        )
    print(f"ratio      {measure.Ratios(pairs=pairs)}")
    product = measure.bf16_product()
    limit, ours = measure.limit_of_ppo(product, epochs=options.epochs), median(first for first, _ in pairs)
    by_product = f"{limit:.0f} env steps/s by the bf16 product, {product / 1e9:.0f} GFLOP/s"
    print(f"limit      {by_product}; reached {ours / limit:.2f}")


if __name__ == "__main__":
    main()
