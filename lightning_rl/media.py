"""Pictures and videos for people: mp4s of episodes, the learning curve as a png."""

import itertools
import math
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from einops import rearrange
from jaxtyping import Bool, UInt8
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from numpy.typing import NDArray

from lightning_rl.loggers import read_metrics

GAP = 2  # pixels between two tiles


def write_video(path: Path, frames: Iterable[UInt8[NDArray[Any], "H W 3"]], *, frames_per_second: int = 15) -> Path:
    """Encodes frames as an mp4 that every player and browser shows: H.264, yuv420p, index in front.

    One frame at a time is held in memory. The file appears whole or not at all. H.264 wants even sizes; an odd one
    gets its last row or column of pixels twice.

    Args:
        path: The mp4; its folder is made.
        frames: RGB, 0..255, all of one size; an array `[T H W 3]` is such a sequence.
        frames_per_second: 15 is the rate at which Procgen's own videos play.

    Returns:
        `path`.

    Raises:
        ValueError: There are no frames, or they differ in size.
    """
    remaining = iter(frames)
    first = next(remaining, None)
    if first is None:
        raise ValueError(f"{path}: expected at least one frame to make a video of, got none")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        _encode(partial, itertools.chain([first], remaining), _even(first).shape[:2], frames_per_second)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def tiled(
    frames: UInt8[NDArray[Any], "B H W C"], *, columns: int, scale: int, dimmed: Bool[NDArray[Any], "B"]
) -> UInt8[NDArray[Any], "H2 W2 C"]:
    """One picture of many environments: a grid, row by row, enlarged without smoothing, on black.

    Args:
        frames: What each environment shows.
        columns: Environments side by side.
        scale: Pixels of the picture per pixel of a frame, each way.
        dimmed: Environments to darken to a third, those whose episode is over.

    Returns:
        The picture, with gaps between its tiles and none around them.
    """
    shown = np.where(dimmed[:, None, None, None], frames // 3, frames)
    enlarged = shown.repeat(scale, axis=1).repeat(scale, axis=2)
    vacant = -len(frames) % columns
    padded = np.pad(enlarged, ((0, vacant), (0, GAP), (0, GAP), (0, 0)))
    grid = rearrange(padded, "(rows columns) h w c -> (rows h) (columns w) c", columns=columns)
    return np.ascontiguousarray(grid[:-GAP, :-GAP])


def draw_learning_curve(metrics_csv: Path, png: Path, *, title: str) -> bool:
    """Draws the returns of a run against its env steps.

    Args:
        metrics_csv: The run's `metrics.csv`.
        png: Where the picture goes; its folder is made.
        title: What stands above it.

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
    png.parent.mkdir(parents=True, exist_ok=True)
    partial = png.with_name(f".{png.name}.partial")
    try:
        figure.savefig(partial, format="png", dpi=150)
        partial.replace(png)
    finally:
        partial.unlink(missing_ok=True)
    return True


def _encode(path: Path, frames: Iterable[UInt8[NDArray[Any], "H W 3"]], size: tuple[int, ...], rate: int) -> None:
    """Writes the frames, each made even, to `path`."""
    height, width = size
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(rate), options={"crf": "18", "preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number, frame in enumerate(frames):
            image = _even(frame)
            if image.shape[:2] != size:
                raise ValueError(f"frame {number} is {image.shape[:2]}, the first one was {size}; a video has one size")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


def _even(frame: UInt8[NDArray[Any], "H W 3"]) -> UInt8[NDArray[Any], "H2 W2 3"]:
    """The frame, with its last row or column repeated where there is an odd number of them."""
    height, width, _ = frame.shape
    return np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


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
