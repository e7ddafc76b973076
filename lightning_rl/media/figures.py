"""Figures as png files: learning curves and rows of images."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from lightning_rl.media.videos import GAP
from lightning_rl.runs.atomic_files import atomic_write
from lightning_rl.runs.metrics_csv import read_metrics


def draw_learning_curve(metrics_csv: Path, png: Path, *, title: str) -> bool:
    """Plots a run's returns against its env steps.

    Args:
        metrics_csv: the run's `metrics.csv`.
        png: output file; its folder is created.
        title: title of the figure.

    Returns:
        Whether the figure was drawn; it needs at least two points of one of the returns.
    """
    curves = {
        "training episodes, mean of the last 100": _points(metrics_csv, "episode/return"),
        "validation, training levels": _points(metrics_csv, "validation/train_levels_return"),
        "validation, full distribution": _points(metrics_csv, "validation/return"),
    }
    if max(len(points) for points in curves.values()) < 2:
        return False
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for label, points in curves.items():
        if points:
            axes.plot(
                *zip(*points, strict=True), label=label, marker="o" if "validation" in label else "", markersize=4
            )
    _label(axes, title)
    _save(figure, png, dpi=150)
    return True


def draw_image_rows(
    png: Path,
    rows: Sequence[tuple[str, UInt8[NDArray[Any], "N H W _"]]],
    *,
    columns: Sequence[str] = (),
    scale: int = 2,
    title: str,
) -> None:
    """Draws rows of equally many images of one size, enlarged by nearest-neighbor interpolation.

    The file is written atomically.

    Args:
        png: output file; its folder is created.
        rows: label and images of each row; images are RGB or grayscale.
        columns: labels below the columns; none by default.
        scale: factor by which images are enlarged.
        title: title of the figure.
    """
    images = np.stack([np.broadcast_to(row, (*row.shape[:3], 3)) for _, row in rows])
    padded = np.pad(images, ((0, 0), (0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=255)
    mosaic = rearrange(padded, "rows columns h w c -> (rows h) (columns w) c")[:-GAP, :-GAP]
    mosaic = mosaic.repeat(scale, axis=0).repeat(scale, axis=1)
    left, above, below = 7 * max(len(label) for label, _ in rows) + 12, 30, 24
    width, height = left + mosaic.shape[1] + 12, above + mosaic.shape[0] + below
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    figure.figimage(mosaic, left, below)  # no resampling, and faster than axes
    figure.text(left / width, 1 - above / 2 / height, title, va="center", fontsize=10)
    row_height, column_width = (scale * (size + GAP) for size in images.shape[2:4])
    for number, (label, _) in enumerate(rows):
        middle = above + number * row_height + scale * images.shape[2] / 2
        figure.text((left - 6) / width, 1 - middle / height, label, ha="right", va="center", fontsize=8)
    for number, label in enumerate(columns):
        middle = left + number * column_width + scale * images.shape[3] / 2
        figure.text(middle / width, below / 2 / height, label, ha="center", va="center", fontsize=8)
    _save(figure, png, dpi=100)


def _save(figure: Figure, png: Path, **options: Any) -> None:
    """Writes the figure atomically."""
    with atomic_write(png) as file:
        figure.savefig(file, format="png", **options)


def _points(metrics_csv: Path, key: str) -> list[tuple[int, float]]:
    """Env steps and value of every row with a finite value of the metric."""
    rows = [(int(row["env_steps"]), float(row[key])) for row in read_metrics(metrics_csv) if key in row]
    return [(env_steps, value) for env_steps, value in rows if math.isfinite(value)]


def _label(axes: Axes, title: str) -> None:
    """Labels the axes with quantity and unit."""
    axes.set_title(title)
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return per episode [env units]")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
