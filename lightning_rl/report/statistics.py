"""Statistics over runs: aggregates with stratified bootstrap intervals, profiles, and Student's t intervals.

Scores are a list with one array per game, `[..., N]` for N runs of it. The last axis is reduced first; axes before
it are kept, so that a whole bootstrap is one call.

Reference:
    Agarwal et al. 2021, Deep reinforcement learning at the edge of the statistical precipice,
    https://arxiv.org/abs/2108.13264, and google-research/rliable, whose numbers these are
"""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import NDArray

Scores = Sequence[Float64[NDArray[Any], "... _"]]
Statistic = Callable[[Scores], Float64[NDArray[Any], "..."]]
Interval = tuple[float, float]

RESAMPLES = 10_000
MIN_RUNS = 3
"""Fewer runs of a game get no interval."""


def interquartile_mean(scores: Scores) -> Float64[NDArray[Any], "..."]:
    """Mean of the middle half of all runs' scores, games pooled (scipy's `trim_mean` with 0.25)."""
    ordered = np.sort(np.concatenate(scores, axis=-1), axis=-1)  # numpy sorts short rows faster than it partitions them
    count = ordered.shape[-1]
    cut = count // 4
    return np.asarray(ordered[..., cut : count - cut].mean(-1))


def mean(scores: Scores) -> Float64[NDArray[Any], "..."]:
    """Mean over games of the mean over runs."""
    return _mean(_game_means(scores))


def median(scores: Scores) -> Float64[NDArray[Any], "..."]:
    """Median over games of the mean over runs."""
    ordered = np.sort(_game_means(scores), axis=-1)
    count = ordered.shape[-1]
    return np.asarray((ordered[..., (count - 1) // 2] + ordered[..., count // 2]) / 2)


def optimality_gap(scores: Scores) -> Float64[NDArray[Any], "..."]:
    """How far scores fall short of 1 on average; what is above 1 makes up for nothing."""
    return np.asarray(1 - mean([np.minimum(game, 1) for game in scores]))


AGGREGATES: dict[str, Statistic] = {
    "iqm": interquartile_mean,
    "mean": mean,
    "median": median,
    "optimality_gap": optimality_gap,
}


def performance_profile(scores: Scores, thresholds: Float64[NDArray[Any], " K"]) -> Float64[NDArray[Any], "... K"]:
    """Share of all runs, games pooled, whose score is above each threshold."""
    pooled = np.sort(np.concatenate(scores, axis=-1), axis=-1)
    flat = pooled.reshape(-1, pooled.shape[-1])
    above = np.stack([pooled.shape[-1] - np.searchsorted(row, thresholds, side="right") for row in flat])
    return np.asarray(above.reshape(*pooled.shape[:-1], -1) / pooled.shape[-1])


def probability_of_improvement(first: Scores, second: Scores) -> Float64[NDArray[Any], "..."]:
    """Mean over games of the probability that a run of the first method beats one of the second; ties count half.

    Args:
        first: scores of one method.
        second: scores of the other, in the same games in the same order.
    """
    wins = [_wins(ours, theirs) for ours, theirs in zip(first, second, strict=True)]
    return np.asarray(np.stack(wins).mean(0))


def _wins(ours: Float64[NDArray[Any], "... _"], theirs: Float64[NDArray[Any], "... _"]) -> Float64[NDArray[Any], "..."]:
    pairs = ours[..., :, None] - theirs[..., None, :]
    return np.asarray(((np.sign(pairs) + 1) / 2).mean((-2, -1)))


def _game_means(scores: Scores) -> Float64[NDArray[Any], "... G"]:
    return np.stack([_mean(game) for game in scores], axis=-1)


def _mean(values: Float64[NDArray[Any], "... _"]) -> Float64[NDArray[Any], "..."]:
    """Mean over a short last axis, as a product: many times faster than numpy's."""
    count = values.shape[-1]
    return np.asarray(values @ np.full(count, 1 / count))


def resampled(scores: Scores, resamples: int, rng: np.random.Generator) -> list[Float64[NDArray[Any], "R _"]]:
    """Stratified bootstrap: runs drawn with replacement within each game, `resamples` times."""
    return [game[_drawn(len(game), resamples, rng)] for game in scores]


def _drawn(runs: int, resamples: int, rng: np.random.Generator) -> Int64[NDArray[Any], "R N"]:
    return rng.integers(runs, size=(resamples, runs))


def percentile_interval(values: Float64[NDArray[Any], " R"]) -> Interval:
    """The middle 95 % of a statistic's values over resamples."""
    low, high = np.percentile(values, (2.5, 97.5))
    return float(low), float(high)


def t_interval(values: Float64[NDArray[Any], " N"]) -> Interval | None:
    """Student's 95 % interval of the mean over runs; None for fewer than `MIN_RUNS`."""
    return mean_of_means_interval([values])


def mean_of_means_interval(scores: Scores) -> Interval | None:
    """95 % interval of the mean over games of the mean over runs; None where a game has fewer than `MIN_RUNS`.

    The variances of the games' means add up; the degrees of freedom are Welch and Satterthwaite's, rounded down.
    """
    if min(map(len, scores)) < MIN_RUNS:
        return None
    variances = np.array([game.var(ddof=1) / len(game) for game in scores])
    center, total = float(mean(scores)), float(variances.sum())
    if total == 0:
        return center, center
    freedom = total**2 / sum(v**2 / (len(game) - 1) for v, game in zip(variances, scores, strict=True))
    half = t_quantile(max(int(freedom + 1e-9), 1)) * math.sqrt(total) / len(scores)
    return center - half, center + half


@cache
def t_quantile(freedom: int, level: float = 0.95) -> float:
    """The half-width, in standard errors, of Student's interval, by bisection."""
    low, high = 0.0, 1e3
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _t_within(middle, freedom) < level else (low, middle)
    return high


def _t_within(t: float, freedom: int) -> float:
    """P(|T| < t) for whole degrees of freedom: Abramowitz & Stegun, equations 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for k in range(2 if odd else 1, freedom, 2):  # the series' terms, each from the one before
        total += term
        term *= math.cos(angle) ** 2 * k / (k + 1)
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total
