"""Results of `validate` and `test`: printed returns, the papers' table, and `test.json`."""

import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from rich.console import Console
from rich.table import Table

from lightning_rl.data.episode_datamodule import EpisodeDataModule
from lightning_rl.distributed import collectives
from lightning_rl.errors import UsageError
from lightning_rl.modules.base import RLModule
from lightning_rl.modules.iteration_metrics import data_of
from lightning_rl.runs import episodes_file
from lightning_rl.runs.atomic_files import atomic_write
from lightning_rl.types import Episodes

_Z_95 = 1.959964  # the normal distribution's 97.5 % quantile


class EvaluationReport(Callback):
    """Prints `mean (variance) [max, min]` per game and level set, and writes `test.json` and `episodes.npz`.

    The interval is the normal interval of the mean, mean ± 1.96 · s / √n over episodes. It tells how precisely the
    return of these weights is known, not how another seed would have trained.

    Args:
        run_dir: folder for `test.json`.
        method: method named in the report.
        checkpoint: tells the checkpoint that the report names, once it is judged; None without one.
        run_id: of the run that has left the checkpoint.
        games: tells the data module's class path and options, for `episodes.npz`; None to write none.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        method: str,
        checkpoint: Callable[[], Path | None],
        run_id: str = "",
        games: Callable[[], tuple[str, dict[str, Any]]] | None = None,
    ) -> None:
        self._path = run_dir / "test.json"
        self._games = games
        self._method = method
        self._checkpoint = checkpoint
        self._run_id = run_id
        self._episodes: dict[str, dict[str, Episodes]] = {}  # by game, where there are several, and level set

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the returns in `validate`; during `fit` they are logged with the row."""
        if trainer.state.fn == TrainerFn.VALIDATING and isinstance(pl_module, RLModule):
            means = collectives.all_reduce_mean(pl_module.validation_returns)
            width = max(31, *map(len, means))
            for key, value in means.items() if trainer.is_global_zero else ():
                sys.stdout.write(f"{key:<{width}} {value:.2f}\n")

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Episodes,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stores the episodes of a level set, of all ranks, in the CPU's memory; Lightning moves batches to a GPU."""
        own = batch.to(torch.device("cpu"))
        self._episodes.setdefault(batch.game, {})[batch.level_set] = _joined(collectives.all_gather(own))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prints the table and writes `test.json`."""
        if not trainer.is_global_zero:
            return
        data, checkpoint = data_of(trainer), self._checkpoint()
        head = {
            "method": self._method,
            "game": data.game,
            "distribution_mode": data.distribution_mode,
            "checkpoint": None if checkpoint is None else str(checkpoint),
            "run_id": self._run_id,
            "env_steps": data.env_steps,
            "greedy": bool(getattr(pl_module, "greedy", False)),
        }
        played = zip(data.each_game, self._episodes.values(), strict=True)
        found = {one.game: _measured(episodes, one) for one, episodes in played}
        only = found.get(data.game)
        if self._games is not None:
            class_path, options = self._games()
            path = self._path.with_name(episodes_file.NAME)
            every = {(game, name): own for game, sets in self._episodes.items() for name, own in sets.items()}
            episodes_file.write_episodes(path, every, class_path=class_path, init_args=options)
        with atomic_write(self._path) as file:
            report = head | ({"games": found} if only is None else only)
            file.write((json.dumps(report, indent=2) + "\n").encode())
        console = Console()
        if not console.is_terminal:
            console.width = 120  # rich would fold the table to 80 columns in a file
        for game, measured in found.items():
            console.print(table(head | {"game": game} | measured, budget=data.test_env_steps))
            if (kept := measured.get("teacher_return_kept")) is not None:
                interval = "{:.3f} to {:.3f}".format(*kept["ci95"])
                returns = "the teacher's return" if only is not None else f"its teacher's return in {game}"
                console.print(f"kept of {returns} on all levels: {kept['share']:.3f}, 95 % interval {interval}")


def _measured(episodes: dict[str, Episodes], data: EpisodeDataModule) -> dict[str, Any]:
    """What test.json says of one game."""
    sets = {
        name: summary(own, data.level_sets.get(name, (0, 0)), normalized_return=data.normalized_return)
        for name, own in episodes.items()
    }
    teacher = episodes.get("teacher")
    kept = {} if teacher is None else {"teacher_return_kept": share_kept(episodes["full_distribution"], teacher)}
    return {"level_sets": sets} | kept


def _joined(parts: Sequence[Episodes]) -> Episodes:
    fields: dict[str, Any] = {}
    for name in vars(parts[0]):
        values = [value for part in parts if (value := getattr(part, name)) is not None]
        fields[name] = torch.cat(values) if values and name not in ("level_set", "game") else next(iter(values), None)
    return Episodes(**fields)


def summary(
    episodes: Episodes, levels: tuple[int, int], *, normalized_return: Callable[[float], float | None]
) -> dict[str, Any]:
    """Statistics of one level set, as in `test.json`.

    Args:
        episodes: episodes played on these levels.
        levels: number of levels, and the first level.
        normalized_return: maps a return to the game's published scale, or to None without one.

    Raises:
        UsageError: no episode was finished.
    """
    returns = episodes.returns
    if not len(returns):
        raise UsageError(f"data.test_env_steps must be more: no episode of {episodes.level_set} ended within it")
    mean, variance = float(returns.mean()), float(returns.var(correction=0))
    half = _Z_95 * math.sqrt(variance / max(len(returns) - 1, 1))
    complete = episodes.level_complete
    return {
        "num_levels": levels[0],
        "start_level": levels[1],
        "episodes": len(returns),
        "env_steps": int(episodes.lengths.sum()),
        "return_mean": mean,
        "return_variance": variance,
        "return_max": float(returns.max()),
        "return_min": float(returns.min()),
        "return_ci95": [mean - half, mean + half],
        "normalized_return": normalized_return(mean),
        "level_complete_rate": None if complete is None else float(complete.double().mean()),
    }


def share_kept(student: Episodes, teacher: Episodes) -> dict[str, Any] | None:
    """The student's mean return over the teacher's, with an interval; None unless both are positive.

    The interval is that of the quotient of two independent means, to first order: q ± 1.96 q √(e² + f²), e
    and f the means' relative standard errors.
    It tells how precisely the returns of these weights are known, not how another seed would have trained.
    """
    means, errors = [], []
    for returns in (student.returns, teacher.returns):
        means.append(float(returns.mean()))
        errors.append(float(returns.var(correction=0)) / max(len(returns) - 1, 1))
    if min(means) <= 0:
        return None
    share = means[0] / means[1]
    half = _Z_95 * share * math.sqrt(sum(error / mean**2 for error, mean in zip(errors, means, strict=True)))
    return {"share": share, "ci95": [share - half, share + half]}


def table(report: dict[str, Any], *, budget: int | None) -> Table:
    """The table in the papers' form, one row per level set."""
    game = " ".join(filter(None, (report["game"], report["distribution_mode"])))
    heading = f"{report['method']} on {game} after {report['env_steps']} env steps"
    caption = None if budget is None else f"whole episodes within {budget} env steps: short episodes count too often"
    columns = Table(title=heading, caption=caption)
    for column in (
        "levels",
        "return: mean (variance) [max, min]",
        "95 % interval",
        "normalized",
        "complete",
        "episodes",
    ):
        columns.add_column(column)
    for name, row in report["level_sets"].items():
        columns.add_row(
            name,
            f"{row['return_mean']:.2f} ({row['return_variance']:.2f}) [{row['return_max']:g}, {row['return_min']:g}]",
            "{:.2f} to {:.2f}".format(*row["return_ci95"]),
            _number(row["normalized_return"]),
            _number(row["level_complete_rate"]),
            str(row["episodes"]),
        )
    return columns


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
