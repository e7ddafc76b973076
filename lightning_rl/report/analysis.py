"""All numbers of a report, as report.json has them."""

import math
import os
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

from lightning_rl.report.coverage import TOO_LOW, coverage, improvement_coverage
from lightning_rl.report.curves import curves
from lightning_rl.report.groups import Group, Score, comparable
from lightning_rl.report.measured_rows import steps_per_second
from lightning_rl.report.run_folders import LEVEL_SETS, LeftOut, Run, Task, shown
from lightning_rl.report.settings import command
from lightning_rl.report.statistics import (
    AGGREGATES,
    MIN_RUNS,
    RESAMPLES,
    Interval,
    mean,
    mean_of_means_interval,
    percentile_interval,
    performance_profile,
    probability_of_improvement,
    resampled,
    t_interval,
)
from lightning_rl.version import __version__

_SEED = 0  # of the bootstraps: the same runs give the same report
_NUM_THRESHOLDS = 51  # from 0 to 1, and as many above where scores are higher
_PROFILE_RESAMPLES = 2000
_FEW = "fewer than three seeds"

Arrays = dict[Task, Float64[NDArray[Any], " N"]]


def analysis(groups: Sequence[Group], left_out: Sequence[LeftOut], *, out: Path) -> dict[str, Any]:
    """Every number of the report.

    Args:
        groups: of run folders, and baselines.
        left_out: the folders that are not reported.
        out: folder of the report, from which links lead to videos.
    """
    everything = sorted({task for group in groups if group.runs for task in group.scores})
    thresholds = _thresholds(groups)
    return {
        "lightning_rl_version": __version__,
        "groups": [_group(group, everything, thresholds, out) for group in groups],
        "comparisons": [found for pair in combinations(groups, 2) if (found := _comparison(*pair)) is not None],
        "left_out": [{"folder": folder, "why": why} for folder, why in left_out],
        "resamples": RESAMPLES,
        "coverage_too_low": TOO_LOW,
    }


def _thresholds(groups: Sequence[Group]) -> Float64[NDArray[Any], " K"]:
    """From 0 to 1, or to the highest score: on Atari an agent can be far above 1."""
    scores = [own for group in groups for name in LEVEL_SETS for own in _normalized(group, name).values()]
    highest = math.ceil(max([1.0, *(float(own.max()) for own in scores)]))
    return np.asarray(np.unique([*np.linspace(0, 1, _NUM_THRESHOLDS), *np.linspace(1, highest, _NUM_THRESHOLDS)]))


def _group(
    group: Group, everything: Sequence[Task], thresholds: Float64[NDArray[Any], " K"], out: Path
) -> dict[str, Any]:
    own = {(task.suite, task.mode) for task in group.scores}
    missing = [task.game for task in everything if (task.suite, task.mode) in own and task not in group.scores]
    modes = sorted({task.mode for task in group.scores if task.mode is not None})
    return {
        "name": group.name,
        "method": group.method,
        "games": [task.game for task in group.scores],
        "missing_games": missing,
        "distribution_mode": modes[0] if modes else None,
        "num_levels": None if group.levels is None else group.levels[0],
        "start_level": None if group.levels is None else group.levels[1],
        "seeds": {task.game: [score.seed for score in scores] for task, scores in group.scores.items()},
        "env_steps": group.env_steps,
        "source": group.source,
        "baseline": not group.runs,
        "marked": _FEW if group.fewest_runs() < MIN_RUNS else None,
        **{name: _aggregates(_normalized(group, name)) if _has(group, name) else None for name in LEVEL_SETS},
        "generalization_gap": _gap(group),
        "profile": {name: _profile(_normalized(group, name), thresholds) for name in LEVEL_SETS},
        "per_game": {
            task.game: {name: _in_game(scores, name) for name in LEVEL_SETS} for task, scores in group.scores.items()
        },
        "teacher_return_kept": {
            task.game: kept for task in group.scores if (kept := _kept(group.runs, task.game)) is not None
        },
        "curves": {task.game: curves(group, task) for task in group.scores},
        "setting": group.setting,
        "command": _command(group),
        "runs": [_run(run, out) for run in group.runs],
        **_cost(group.runs),
    }


def _normalized(group: Group, level_set: str) -> Arrays:
    """Each task's normalized scores, where all runs have them; tasks without a published scale are left out."""
    found: Arrays = {}
    for task, scores in group.scores.items():
        returns = [score.returns[level_set] for score in scores if level_set in score.returns]
        values = [value for one in returns if (value := task.normalized(one)) is not None]
        if len(values) == len(scores):
            found[task] = np.array(values)
    return found


def _has(group: Group, level_set: str) -> bool:
    return any(level_set in score.returns for scores in group.scores.values() for score in scores)


def _aggregates(scores: Arrays) -> dict[str, Any]:
    """The four aggregates with intervals, and the share of such intervals that hold the truth.

    All are None where no game has a published scale. Beside them the games and runs that they are of.
    """
    of = {"games": [task.game for task in scores], "runs": sum(map(len, scores.values()))}
    if not scores:
        return of | {f"{name}{end}": None for name in AGGREGATES for end in ("", "_ci95", "_coverage")}
    games = list(scores.values())
    runs = tuple(sorted(map(len, games)))
    enough = runs[0] >= MIN_RUNS
    draws = resampled(games, RESAMPLES, np.random.default_rng(_SEED)) if enough else None
    found: dict[str, Any] = of
    for name, statistic in AGGREGATES.items():
        found[name] = float(statistic(games))
        found[f"{name}_ci95"] = None if draws is None else list(percentile_interval(statistic(draws)))
        found[f"{name}_coverage"] = coverage(runs)[name] if enough else None
    return found


def _profile(scores: Arrays, thresholds: Float64[NDArray[Any], " K"]) -> dict[str, Any] | None:
    if not scores:
        return None
    games = list(scores.values())
    found: dict[str, Any] = {
        "thresholds": thresholds.round(6).tolist(),
        "share_above": performance_profile(games, thresholds).tolist(),
        "ci95": None,
    }
    if min(map(len, games)) >= MIN_RUNS:
        draws = resampled(games, _PROFILE_RESAMPLES, np.random.default_rng(_SEED))
        found["ci95"] = np.percentile(performance_profile(draws, thresholds), (2.5, 97.5), axis=0).tolist()
    return found


def _kept(runs: Sequence[Run], game: str) -> dict[str, Any] | None:
    """Mean over runs of the share of the teacher's return that is kept; None unless every run of the game has one."""
    played = [run for run in runs if game in (task.game for task in run.tasks)]
    shares = np.array([run.kept[game] for run in played if game in run.kept], dtype=float)
    if not len(shares) or len(shares) < len(played):
        return None
    return {"mean": float(shares.mean()), "ci95": _listed(t_interval(shares)), "runs": shares.tolist()}


def _gap(group: Group) -> dict[str, Any] | None:
    """Training levels minus all levels, normalized, of the same runs."""
    ours, theirs = (_normalized(group, name) for name in LEVEL_SETS)
    games = [ours[task] - theirs[task] for task in ours if task in theirs]
    if not games:
        return None
    of = [task.game for task in ours if task in theirs]
    return {"mean": float(mean(games)), "mean_ci95": _listed(mean_of_means_interval(games)), "games": of}


def _in_game(scores: Sequence[Score], level_set: str) -> dict[str, Any] | None:
    """One game's returns: each run's, their mean and t-interval, and all runs' episodes as the papers write them."""
    there = [score for score in scores if level_set in score.returns]
    if not there:
        return None
    runs = np.array([score.returns[level_set] for score in there])
    tested = [score.tested[level_set] for score in there if level_set in score.tested]
    return {
        "return_mean": float(runs.mean()),
        "ci95": _listed(t_interval(runs)),
        "runs": runs.tolist(),
        "env_steps": [score.env_steps for score in there],
        "episodes": _episodes(tested, runs) if len(tested) == len(there) else None,
    }


def _episodes(tested: Sequence[Mapping[str, Any]], runs: Float64[NDArray[Any], " N"]) -> dict[str, float] | None:
    """Variance, extremes and number of all runs' episodes; None where a test.json lacks one of them."""
    keys = ("return_variance", "return_max", "return_min", "episodes")
    if not all(_is_number(values.get(key)) for values in tested for key in keys):
        return None
    counts = [values["episodes"] for values in tested]
    if min(counts) < 1:
        return None
    spread = (runs - np.average(runs, weights=counts)) ** 2
    within = [values["return_variance"] for values in tested]
    return {
        "return_variance": float(np.average(within + spread, weights=counts)),
        "return_max": float(max(values["return_max"] for values in tested)),
        "return_min": float(min(values["return_min"] for values in tested)),
        "episodes": int(sum(values["episodes"] for values in tested)),
    }


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _comparison(first: Group, second: Group) -> dict[str, Any] | None:
    """The probability that the first group's runs beat the second's, on all levels of the games that they share."""
    if not comparable(first, second):
        return None
    name = "full_distribution"
    shared = [task for task in first.scores if task in second.scores]
    ours, theirs = ([_returns(group.scores[task], name) for task in shared] for group in (first, second))
    if not shared or not all(map(len, [*ours, *theirs])):
        return None
    enough = min(map(len, [*ours, *theirs])) >= MIN_RUNS
    interval = None
    if enough:
        rng = np.random.default_rng(_SEED)
        draws = [resampled(scores, RESAMPLES, rng) for scores in (ours, theirs)]
        interval = list(percentile_interval(probability_of_improvement(*draws)))
    return {
        "groups": [first.name, second.name],
        "games": [task.game for task in shared],
        "probability_of_improvement": float(probability_of_improvement(ours, theirs)),
        "ci95": interval,
        "ci95_coverage": improvement_coverage(_counts(ours), _counts(theirs)) if enough else None,
    }


def _counts(scores: Sequence[Float64[NDArray[Any], " N"]]) -> tuple[int, ...]:
    return tuple(map(len, scores))


def _returns(scores: Sequence[Score], level_set: str) -> Float64[NDArray[Any], " N"]:
    return np.array([score.returns[level_set] for score in scores if level_set in score.returns], dtype=float)


def _listed(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)


def _command(group: Group) -> str | None:
    if not group.runs:
        return None
    seeds: dict[str, list[int]] = {}
    together = len(group.runs[0].tasks) > 1
    for run in group.runs:
        seeds.setdefault("+".join(task.game for task in run.tasks), []).append(run.seed)
    ordered = {game: sorted(numbers) for game, numbers in sorted(seeds.items())}
    safe = "".join(letter if letter.isalnum() or letter in "_.+" else "-" for letter in group.name)
    config = Path(shown(group.runs[0].folder / "config.yaml"))
    return command(config, ordered, run_dir=f"runs/{safe}", together=together, setting=group.setting)


def _run(run: Run, out: Path) -> dict[str, Any]:
    return {
        "folder": shown(run.folder),
        "game": "+".join(task.game for task in run.tasks),
        "seed": run.seed,
        "env_steps": run.env_steps,
        "tested": run.tested is not None,
        "checkpoint": run.checkpoint,
        "videos": _videos(run.folder, out),
        "examples": [example._asdict() for example in run.examples],
        **_cost([run]),
    }


def _videos(folder: Path, out: Path) -> list[str]:
    """Links to the run's videos, relative to the report, so that both can be moved together."""
    found = sorted((folder / "media").glob("*.mp4"))
    relative = [os.path.relpath(os.path.realpath(video), os.path.realpath(out)) for video in found]
    return [quote(os.fsencode(path)) for path in relative]  # as bytes: a name may be no UTF-8


def _cost(runs: Sequence[Run]) -> dict[str, float | None]:
    """Hours of wall-clock time in all, and env steps per second in training; None where metrics.csv does not tell."""
    total = sum(float(run.hours[-1]) if run.rows else math.nan for run in runs)
    rates = [rate for run in runs if math.isfinite(rate := steps_per_second(run.rows))]
    return {
        "hours": total if runs and math.isfinite(total) else None,
        "env_steps_per_second": float(np.median(rates)) if rates else None,
    }
