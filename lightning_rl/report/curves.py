"""Learning curves of a group: mean and interval over its seeds, by env steps and by wall-clock time."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

from lightning_rl.report.baselines import openai_runs
from lightning_rl.report.groups import Group
from lightning_rl.report.measured_rows import column
from lightning_rl.report.run_folders import Run, Task
from lightning_rl.report.statistics import MIN_RUNS, t_quantile

KEYS = {"train_levels": "episode/return", "full_distribution": "validation/return"}
"""What is drawn of each level set: returns in training, and of validations on all levels."""

_POINTS = 60


class Line(NamedTuple):
    """One run's curve."""

    x: Float64[NDArray[Any], " N"]
    y: Float64[NDArray[Any], " N"]


def curves(group: Group, task: Task) -> dict[str, dict[str, Any]]:
    """The group's curves in one task, by axis and level set, as report.json has them.

    Args:
        group: runs, or a baseline.
        task: one of its tasks.
    """
    if not group.runs:
        return {"env_steps": _published(group, task), "hours": {}}
    runs = [run for run in group.runs if task in run.tasks]
    found: dict[str, dict[str, Any]] = {"env_steps": {}, "hours": {}}
    for name, key in KEYS.items():
        for axis in found:
            lines = [line for run in runs if len((line := _line(run, task, key, axis)).x)]
            if lines:
                found[axis][name] = summary(lines) | (
                    {"lacking": len(runs) - len(lines)} if len(lines) < len(runs) else {}
                )
    return found


def _published(group: Group, task: Task) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in KEYS:
        points = [openai_runs().get((str(task.mode), task.game, name, run), {}) for run in range(3)]
        if group.env_steps and all(points):
            up_to = [{x: y for x, y in own.items() if x <= 1.05 * group.env_steps} for own in points]
            lines = [Line(np.array(list(own), float), np.array(list(own.values()))) for own in up_to if own]
            found |= {name: summary(lines)} if lines else {}
    return found


def _line(run: Run, task: Task, key: str, axis: str) -> Line:
    several = f"{key}/{task.game}" if len(run.tasks) > 1 else key
    y = column(run.rows, several)
    x = run.hours if axis == "hours" else column(run.rows, "env_steps")
    known = np.isfinite(x) & np.isfinite(y)
    return Line(x[known], y[known])


def summary(lines: Sequence[Line]) -> dict[str, Any]:
    """Mean and t-interval over runs where all have points; fewer than three runs are given one by one.

    Args:
        lines: one curve per run, none of them empty.
    """
    if len(lines) < MIN_RUNS:
        return {"runs": [{"x": _rounded(thin.x), "y": _rounded(thin.y)} for thin in map(_thinned, lines)]}
    low, high = max(line.x[0] for line in lines), min(line.x[-1] for line in lines)
    if low > high:
        return {"runs": [{"x": _rounded(thin.x), "y": _rounded(thin.y)} for thin in map(_thinned, lines)]}
    longest = max((line.x for line in lines), key=len)
    x = np.unique([low, *longest[(longest > low) & (longest < high)], high])
    x = x if len(x) <= _POINTS else np.linspace(low, high, _POINTS)
    y = np.stack([np.interp(x, line.x, line.y) for line in lines])
    half = t_quantile(len(lines) - 1) * y.std(0, ddof=1) / math.sqrt(len(lines))
    mean = y.mean(0)
    return {"x": _rounded(x), "mean": _rounded(mean), "ci95": [_rounded(mean - half), _rounded(mean + half)]}


def _thinned(line: Line) -> Line:
    kept = np.unique(np.linspace(0, len(line.x) - 1, min(len(line.x), _POINTS)).round().astype(int))
    return Line(line.x[kept], line.y[kept])


def _rounded(values: Float64[NDArray[Any], " N"]) -> list[float]:
    """Enough digits for a curve; the files stay small."""
    return [float(f"{value:.5g}") for value in values.tolist()]
