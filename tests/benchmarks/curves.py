"""Learning curves beside OpenAI's published ones: `python -m tests.benchmarks.curves LABEL=PATH …`.

Draws `episode/return` of each `metrics.csv` against env steps, with the returns that OpenAI's PPO reached in the same
setting (easy, 200 training levels), and that of random play. For bf16 against fp32, train twice with the same seed:
once with `--trainer.precision bf16-mixed` and once with `--trainer.precision 32-true`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from lightning_rl.runs.metrics_csv import read_metrics


class Published(NamedTuple):
    """Mean returns at a number of env steps, on the training levels and on all levels."""

    env_steps: int
    train: float
    test: float


# means over the runs in openai/train-procgen, train_procgen/results, easy mode, 200 training levels
OPENAI: dict[str, list[Published]] = {
    "bossfight": [Published(500_000, 0.32, 0.39), Published(1_000_000, 0.73, 0.58), Published(2_000_000, 2.62, 1.93)],
    "coinrun": [Published(500_000, 6.75, 6.34), Published(1_000_000, 7.96, 7.46)],
    "starpilot": [Published(500_000, 4.67, 3.99), Published(1_000_000, 7.49, 6.66)],
}

RANDOM_PLAY: dict[str, float] = {"bossfight": 0.04, "coinrun": 2.58, "starpilot": 1.56}
"""Returns of uniformly random actions on the training levels: means of 1024, 512 and 1024 episodes, ± 0.04, ± 0.19 and
± 0.06."""


class Curve(NamedTuple):
    """A label and the points of a run: env steps, return."""

    label: str
    points: list[tuple[int, float]]


def labelled(text: str) -> tuple[str, Path]:
    """An argument `LABEL=PATH`.

    Raises:
        ValueError: it has no label or no path.
    """
    label, _, path = text.partition("=")
    if not label or not path:
        raise ValueError(f"expected LABEL=PATH, found {text!r}")
    return label, Path(path)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m tests.benchmarks.curves", description=__doc__)
    result.add_argument("runs", nargs="+", type=labelled, metavar="LABEL=PATH", help="a name and a metrics.csv")
    result.add_argument("--game", choices=sorted(OPENAI), required=True)
    result.add_argument("--out", type=Path, required=True, help="the png")
    return result


def read_curve(label: str, path: Path) -> Curve:
    """The returns in a `metrics.csv`.

    Raises:
        ValueError: it has none.
    """
    rows = [row for row in read_metrics(path) if "episode/return" in row]
    if not rows:
        raise ValueError(f"{path}: expected rows with episode/return, found none")
    return Curve(label, [(int(row["env_steps"]), float(row["episode/return"])) for row in rows])


def drawn(curves: Sequence[Curve], *, game: str) -> Figure:
    """The picture.

    Args:
        curves: of runs in the published setting.
        game: whose published returns to show, up to where the longest curve ends.
    """
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for curve in curves:
        axes.plot(*zip(*curve.points, strict=True), label=curve.label, linewidth=1.8)
    end = max(env_steps for curve in curves for env_steps, _ in curve.points)
    _draw_published(axes, [point for point in OPENAI[game] if point.env_steps <= 1.05 * end])
    axes.axhline(RANDOM_PLAY[game], color="0.5", linestyle=":", label="random play")
    axes.set_title(f"{game}, easy, 200 levels")
    axes.set_xlabel("env steps")
    axes.set_ylabel("episode return (env units)")
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="upper left")
    return figure


def _draw_published(axes: Axes, points: Sequence[Published]) -> None:
    if not points:
        return
    env_steps, train, test = zip(*points, strict=True)
    axes.plot(env_steps, train, "o", color="black", markersize=7, clip_on=False, label="OpenAI, training levels")
    axes.plot(
        env_steps, test, "o", color="black", markersize=7, fillstyle="none", clip_on=False, label="OpenAI, all levels"
    )


def main(arguments: list[str] | None = None) -> None:
    """Reads and draws."""
    options = parser().parse_args(arguments)
    figure = drawn([read_curve(label, path) for label, path in options.runs], game=options.game)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, format="png", dpi=150)


if __name__ == "__main__":
    main()
