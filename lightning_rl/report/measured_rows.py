"""Numbers in the rows of metrics.csv: cells, wall-clock time, speed."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy.typing import NDArray

from lightning_rl.runs.metrics_rows import Row

_FAR = 1.5  # times the env steps between two rows

Numbers = Float64[NDArray[Any], " N"]


def number(row: Row, key: str, missing: float = math.nan) -> float:
    """A cell as a number; `missing` where there is none."""
    try:
        return float(row[key]) if key in row else missing
    except ValueError:
        return missing


def column(rows: Sequence[Row], key: str, missing: float = math.nan) -> Numbers:
    """A column as numbers; `missing` where a row has none."""
    return np.array([number(row, key, missing) for row in rows], dtype=float)


def hours(rows: Sequence[Row]) -> Numbers:
    """Wall-clock hours at every row, validating and saving included; NaN from where a row does not tell its time.

    That is a row of an older run, which has no `time/seconds`, without its speed, or without env steps of its own:
    SimPLe logs rows while it only learns.
    """
    return np.asarray((_seconds(rows) / 3600).cumsum())


def _seconds(rows: Sequence[Row]) -> Numbers:
    steps = np.diff(column(rows, "env_steps"), prepend=0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        spent = steps / (column(rows, "time/env_steps_per_second") * _working(rows))
    told = column(rows, "time/seconds")
    return np.asarray(np.where(told > 0, told, np.where(np.isfinite(spent), spent, np.nan)))


def _working(rows: Sequence[Row]) -> Numbers:
    """Share of the time that the rate counts, which leaves validating and saving out."""
    beside = column(rows, "time/validating", 0.0) + column(rows, "time/saving", 0.0)
    return np.asarray(1 - np.minimum(beside, 0.999))


def steps_per_second(rows: Sequence[Row]) -> float:
    """Env steps over seconds of training; NaN where some row does not tell its time, as in `hours`.

    A first row far from zero, as that of a run that goes on with another's checkpoint, is where counting begins.
    """
    spent, steps = _seconds(rows) * _working(rows), np.diff(column(rows, "env_steps"), prepend=0.0)
    if len(steps) > 1 and steps[0] > _FAR * steps[1:].max() > 0:
        spent, steps = spent[1:], steps[1:]
    seconds = float(spent.sum())
    return float(steps.sum()) / seconds if seconds > 0 else math.nan
