"""Pictures and videos for people: mp4s of episodes, the learning curve and rows of images as pngs."""

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
    """Draws the returns of a run against its env steps.

    Args:
        metrics_csv: the run's `metrics.csv`.
        png: where the picture goes; its folder is made.
        title: what stands above it.

    Returns:
        Whether there was a curve to draw: at least two points of one of the returns.
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
    """Draws rows of images, all of one size and as many in each row, enlarged without smoothing.

    The file appears whole or not at all.

    Args:
        png: where the picture goes; its folder is made.
        rows: what stands left of each row, and its images: RGB, or one channel from black to white.
        columns: what stands below each column; nothing by default.
        scale: pixels of the picture per pixel of an image, each way.
        title: what stands above the picture.
    """
    images = np.stack([np.broadcast_to(row, (*row.shape[:3], 3)) for _, row in rows])
    padded = np.pad(images, ((0, 0), (0, 0), (0, GAP), (0, GAP), (0, 0)), constant_values=255)
    mosaic = rearrange(padded, "rows columns h w c -> (rows h) (columns w) c")[:-GAP, :-GAP]
    mosaic = mosaic.repeat(scale, axis=0).repeat(scale, axis=1)
    left, above, below = 7 * max(len(label) for label, _ in rows) + 12, 30, 24
    width, height = left + mosaic.shape[1] + 12, above + mosaic.shape[0] + below
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    figure.figimage(mosaic, left, below)  # pixel for pixel, and faster than axes
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
    with atomic_write(png) as file:
        figure.savefig(file, format="png", **options)


def _points(metrics_csv: Path, key: str) -> list[tuple[int, float]]:
    """Env steps and value wherever the key has a finite one."""
    rows = [(int(row["env_steps"]), float(row[key])) for row in read_metrics(metrics_csv) if key in row]
    return [(env_steps, value) for env_steps, value in rows if math.isfinite(value)]


def _label(axes: Axes, title: str) -> None:
    """Says what is on the axes, and in which unit."""
    axes.set_title(title)
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return per episode [env units]")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
