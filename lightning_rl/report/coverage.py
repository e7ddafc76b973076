"""How often a percentile bootstrap's 95 % interval holds the truth, by simulation: few runs make it too narrow."""

from functools import cache

import numpy as np

from lightning_rl.report.statistics import AGGREGATES, percentile_interval, probability_of_improvement, resampled

TOO_LOW = 0.9
"""Coverage under which an interval is marked."""


@cache
def coverage(
    runs: tuple[int, ...], *, repetitions: int = 1000, resamples: int = 500, seed: int = 0
) -> dict[str, float]:
    """Share of simulated studies whose interval holds the true value, by aggregate.

    Every score is drawn from the standard normal distribution, so that the truth of all aggregates is 0. The optimality
    gap's is the mean's: where no score is above 1, the one is 1 minus the other.

    Args:
        runs: number of runs of each game.
        repetitions: simulated studies.
        resamples: of the bootstrap.
        seed: of all draws.
    """
    rng = np.random.default_rng(seed)
    held = dict.fromkeys(("iqm", "mean", "median"), 0)
    for _ in range(repetitions):
        draws = resampled([rng.normal(size=count) for count in runs], resamples, rng)
        for name in held:
            low, high = percentile_interval(AGGREGATES[name](draws))
            held[name] += low <= 0 <= high
    shares = {name: count / repetitions for name, count in held.items()}
    return shares | {"optimality_gap": shares["mean"]}


@cache
def improvement_coverage(
    first: tuple[int, ...], second: tuple[int, ...], *, repetitions: int = 500, resamples: int = 300, seed: int = 0
) -> float:
    """Share of simulated comparisons of two equal methods whose interval holds 0.5, the truth.

    Args:
        first: number of runs of each game of the one.
        second: of the other, in the same games.
        repetitions: simulated comparisons.
        resamples: of the bootstrap.
        seed: of all draws.
    """
    rng = np.random.default_rng(seed)
    held = 0
    for _ in range(repetitions):
        draws = [resampled([rng.normal(size=count) for count in runs], resamples, rng) for runs in (first, second)]
        low, high = percentile_interval(probability_of_improvement(*draws))
        held += low <= 0.5 <= high
    return held / repetitions
