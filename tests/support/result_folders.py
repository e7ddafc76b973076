"""Run folders as `fit` and `test` leave them, written without training."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from lightning_rl.runs.episodes_file import write_episodes
from lightning_rl.types import Episodes

_TRAINER = {"accelerator": "cpu", "precision": "bf16-mixed", "logger": False, "devices": "auto"}


def config(*, model: str = "PPOModule", game: object = "starpilot", seed: int = 1, **options: object) -> dict[str, Any]:
    """A resolved config.

    Args:
        model: class of the method.
        game: name of the game.
        seed: of the run.
        options: further ones, named with `__` for a dot.
    """
    found: dict[str, Any] = {
        "seed_everything": seed,
        "trainer": dict(_TRAINER),
        "model": {"class_path": f"lightning_rl.{model}", "init_args": {"pooling": "flatten", "micro_batches": None}},
        "data": {
            "class_path": "lightning_rl.ProcgenDataModule",
            "init_args": {
                "game": game,
                "distribution_mode": "easy",
                "num_levels": 200,
                "start_level": 0,
                "total_env_steps": 500_000,
                "num_threads": 2,
                "seed": seed,
            },
        },
        "run_dir": None,
        "ckpt_path": None,
    }
    for name, value in options.items():
        *above, key = name.split("__")
        place = found
        for part in above:
            place = place[part]
        place[key] = value
    return found


def results(
    *,
    train: float | None,
    full: float,
    game: str = "starpilot",
    method: str = "ppo",
    mode: str = "easy",
    env_steps: int = 507_904,
) -> dict[str, Any]:
    """A test.json.

    Args:
        train: mean return on training levels; None where the game has none.
        full: mean return on all levels.
        game: name of the game.
        method: name of the method.
        mode: of the game.
        env_steps: of the checkpoint.
    """
    level_sets = {"train_levels": train, "full_distribution": full, "random_policy": 1.5}
    return {
        "method": method,
        "game": game,
        "distribution_mode": mode,
        "checkpoint": "last.ckpt",
        "env_steps": env_steps,
        "level_sets": {name: _level_set(value) for name, value in level_sets.items() if value is not None},
    }


def _level_set(value: float) -> dict[str, Any]:
    values = {"episodes": 512, "return_mean": value, "return_variance": 4.0, "return_max": 20.0, "return_min": 0.0}
    return {"num_levels": 200, "start_level": 0, "return_ci95": [value - 0.2, value + 0.2], **values}


def metrics(last: float, *, env_steps: int = 507_904, rows: int = 31, every: int = 10) -> list[dict[str, float]]:
    """Rows of a metrics.csv whose returns rise to about `last`.

    Args:
        last: the last validation return.
        env_steps: of the last row.
        rows: number of rows.
        every: rows from one validation to the next; the last row has one.
    """
    found = []
    for number in range(1, rows + 1):
        value = last * number / rows
        row = {
            "env_steps": env_steps * number // rows,
            "episode/return": value + 0.2 * math.sin(number),
            "time/env_steps_per_second": 500.0,
            "time/validating": 0.05,
            "time/saving": 0.05,
            "loss/policy": -0.001,
        }
        if number % every == 0 or number == rows:
            row |= {"validation/return": value, "validation/train_levels_return": value + 0.5}
        found.append(row)
    return found


def write_run(
    folder: Path,
    options: Mapping[str, Any] | None = None,
    test: Mapping[str, Any] | None = None,
    rows: Sequence[Mapping[str, float]] | None = None,
) -> Path:
    """A run folder with config.yaml, and with test.json and metrics.csv where they are given."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config() if options is None else dict(options)))
    if test is not None:
        (folder / "test.json").write_text(json.dumps(test))
    if rows is not None:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        lines = [columns, *([str(row.get(column, "")) for column in columns] for row in rows)]
        (folder / "metrics.csv").write_text("".join(f"{','.join(line)}\n" for line in lines))
    return folder


def write_played(folder: Path, returns: Mapping[str, Sequence[float]], *, game: str = "starpilot") -> Path:
    """An episodes.npz with episodes of one step, which have these returns by level set."""
    sets = {name: _played(name, values) for name, values in returns.items()}
    write_episodes(folder / "episodes.npz", sets, class_path="lightning_rl.ProcgenDataModule", init_args={"game": game})
    return folder / "episodes.npz"


def _played(level_set: str, returns: Sequence[float]) -> Episodes:
    ones = torch.ones(len(returns), dtype=torch.int64)
    return Episodes(
        level_set=level_set,
        returns=torch.tensor(returns, dtype=torch.float64),
        lengths=ones,
        level_complete=None,
        actions=ones,
        level_seeds=ones,
    )
