"""Finds run folders, and reads what a report needs of one."""

import csv
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from lightning_rl.envs.procgen_games import normalized_return
from lightning_rl.report.examples import Example, examples
from lightning_rl.report.measured_rows import Numbers, hours, number
from lightning_rl.report.settings import Setting, class_name, game_names, method_name, options, setting
from lightning_rl.runs.metrics_rows import Row, read_metrics

LEVEL_SETS = ("train_levels", "full_distribution")
_RESULTS = "test.json or metrics.csv"
_FILES = ("config.yaml", "test.json", "metrics.csv")
_EPISODES = "episodes.npz"
_LARGEST = 1e15
_MOST_VALUES = 100_000
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # written in C where PyYAML has it: ten times as fast


class LeftOut(NamedTuple):
    """A folder that is not reported, and why."""

    folder: str
    why: str


class Task(NamedTuple):
    """What a score is measured in: runs are compared in equal ones only."""

    suite: str
    mode: str | None
    game: str

    def normalized(self, value: float) -> float | None:
        """The return on its game's published scale, or None where there is none."""
        if self.suite == "procgen":
            return normalized_return(self.game, str(self.mode), value)
        if self.suite == "atari":
            from lightning_rl.envs.atari_games import human_normalized  # loads the emulator

            return human_normalized(self.game, value)
        return None


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one run folder holds.

    Attributes:
        folder: the run folder.
        config: the content of config.yaml.
        method: the method's name.
        seed: of the run.
        tasks: the games that it learned, with their suite and mode.
        setting: what sets its group apart.
        env_steps: where it was tested, or where its last row is.
        levels: number of training levels and the first, where the suite has levels.
        tested: test.json's level sets by game; None where it was not tested.
        checkpoint: name of the file that was tested.
        kept: share of the teacher's return that a student keeps, by game, where `test` played the teacher.
        rows: of metrics.csv.
        examples: episodes of the test that are worth a look, where it kept them.
    """

    folder: Path
    config: Mapping[str, Any] = field(repr=False)
    method: str
    seed: int
    tasks: tuple[Task, ...]
    setting: Setting
    env_steps: int
    levels: tuple[int, int] | None
    tested: Mapping[str, Mapping[str, Mapping[str, Any]]] | None
    rows: Sequence[Row]
    checkpoint: str | None = None
    kept: Mapping[str, float] = field(default_factory=dict)
    examples: Sequence[Example] = ()

    @cached_property
    def hours(self) -> Numbers:
        """Wall-clock hours at every row."""
        return hours(self.rows)

    def validated(self, task: Task, budget: int) -> tuple[int, dict[str, float]] | None:
        """Env steps and returns by level set of the last validation at or before a number of env steps."""
        suffix = f"/{task.game}" if len(self.tasks) > 1 else ""
        keys = {
            "full_distribution": f"validation/return{suffix}",
            "train_levels": f"validation/train_levels_return{suffix}",
        }
        for row in reversed(self.rows):
            if int(row["env_steps"]) <= budget and math.isfinite(number(row, keys["full_distribution"])):
                returns = {name: number(row, key) for name, key in keys.items()}
                return int(row["env_steps"]), {name: value for name, value in returns.items() if math.isfinite(value)}
        return None


def shown(path: Path | str) -> str:
    """A path, or what a file says, as one line of text, whatever bytes are in it."""
    return "".join(_printable(letter) for letter in str(path))


def _printable(letter: str) -> str:
    if "\ud800" <= letter <= "\udfff":  # half a letter: a byte of a path that is no UTF-8, or from a file
        return "\ufffd"
    return letter if letter.isprintable() else repr(letter)[1:-1]


def read_runs(paths: Sequence[Path]) -> tuple[list[Run], list[LeftOut]]:
    """The runs in these folders and below, each once, and what was left out.

    Args:
        paths: run folders, or folders that hold some.
    """
    runs: list[Run] = []
    left_out: list[LeftOut] = []
    search = _Search()
    for path in paths:
        for folder, fault in search.below(path):
            try:
                run = None if fault else read_run(folder)
            except (ValueError, OSError, RecursionError, csv.Error) as error:
                run, fault = None, _one_line(error)
            if run is None:
                left_out.append(LeftOut(shown(folder), fault))
                continue
            try:
                runs.append(replace(run, examples=_examples(run)))
            except ValueError as error:
                runs.append(run)
                why = str(error).removeprefix(f"{folder / _EPISODES} ")
                left_out.append(LeftOut(shown(folder / _EPISODES), f"{shown(why)}; the run itself is reported"))
    return runs, left_out


def _examples(run: Run) -> list[Example]:
    """Of a test that has ended; without its test.json, nothing says of which checkpoint the episodes are."""
    path = run.folder / _EPISODES
    if run.tested is None or not path.exists():
        return []
    found = [one._replace(game=_canonical(run.tasks[0].suite, (one.game,))[0]) for one in examples(path, LEVEL_SETS)]
    played = [task.game for task in run.tasks]
    others = sorted({one.game for one in found} - set(played))
    if others:
        raise ValueError(f"is of another run: game {others[0]}, config.yaml has {'+'.join(played)}")
    return found


class _Search:
    """Finds run folders, and folders that only look like one; each is told once, however often it is given."""

    def __init__(self) -> None:
        self._told: set[Path] = set()
        self._met = 0  # run folders, those that were told before included

    def below(self, path: Path) -> Iterator[tuple[Path, str]]:
        """The folder itself, or those below it, each with its fault, which is empty for a run folder."""
        met = self._met
        yield from self._searched(path, frozenset())
        if self._met == met:
            yield from self._tell(path, f"holds no run: expected config.yaml beside {_RESULTS}")

    def _searched(self, folder: Path, above: frozenset[Path]) -> Iterator[tuple[Path, str]]:
        try:
            fault, there, inner = _looked_at(folder)
        except OSError as error:
            fault, there, inner = _one_line(error), [], []
        if fault or ("config.yaml" in there and len(there) > 1):
            yield from self._tell(folder, fault)
            return
        met = self._met
        for path in inner if folder.resolve() not in above else ():  # a link may lead back
            yield from self._searched(path, above | {folder.resolve()})
        if there and self._met == met:
            lacking = _RESULTS if "config.yaml" in there else "config.yaml"
            yield from self._tell(folder, f"holds {' and '.join(there)} and no {lacking}")

    def _tell(self, folder: Path, fault: str) -> Iterator[tuple[Path, str]]:
        self._met += 1
        if folder.resolve() not in self._told:
            self._told.add(folder.resolve())
            yield folder, fault


def _looked_at(folder: Path) -> tuple[str, list[str], list[Path]]:
    """Why this is no folder, a run's files in it, and the folders in it.

    Raises:
        OSError: it cannot be read.
    """
    if not folder.is_dir():
        return "is no folder: give the run folder" if folder.exists() else "is not there", [], []
    there = [name for name in _FILES if (folder / name).exists()]
    return "", there, sorted(path for path in folder.iterdir() if path.is_dir() and path.name != "wandb")


def _one_line(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{Path(str(error.filename)).name} cannot be read: {error.strerror}"
    if isinstance(error, RecursionError):
        return "is nested too deeply"
    return shown(" ".join(str(error).split()))


def read_run(folder: Path) -> Run:
    """What one run folder holds.

    Raises:
        ValueError: a file is damaged or not this package's, or the run has not finished; the message says which.
        OSError: a file cannot be read.
    """
    config = _config(folder / "config.yaml")
    tested = _read_json(folder / "test.json") if (folder / "test.json").exists() else None
    rows = _rows(folder / "metrics.csv")
    data = options(config["data"])
    mode = data.get("distribution_mode")
    suite = class_name(config["data"]).removesuffix("DataModule").lower()
    games = _canonical(suite, game_names(config))
    if tested is not None and tested["game"] != "+".join(games):
        raise ValueError(f"test.json is of another run: game {tested['game']}, config.yaml has {'+'.join(games)}")
    if tested is not None:
        _check_same_play(tested, config)
    env_steps = _finished(rows, data.get("total_env_steps")) if tested is None else _counted(tested, rows)
    return Run(
        folder=folder,
        config=config,
        method=method_name(config) if tested is None else tested["method"],
        seed=config.get("seed_everything", 0),
        tasks=tuple(Task(suite, None if mode is None else str(mode), game) for game in games),
        setting=setting(config),
        env_steps=env_steps,
        levels=(data.get("num_levels", 200), data.get("start_level", 0)) if suite == "procgen" else None,
        tested=None if tested is None else _level_sets(tested, games),
        checkpoint=None if tested is None else _file_name(tested.get("checkpoint")),
        kept={} if tested is None else _kept(tested, games),
        rows=rows,
    )


def _config(path: Path) -> Mapping[str, Any]:
    try:  # which builds plain values only
        config = yaml.load(path.read_bytes(), Loader=_Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"config.yaml is not YAML: {str(error).splitlines()[0]}") from error
    _check_extent(config)
    for key in ("model", "data"):
        part = config.get(key) if isinstance(config, dict) else None
        if not isinstance(part, dict) or not isinstance(part.get("class_path"), str):
            raise ValueError(f"config.yaml is not of this package: no {key}.class_path")  # noqa: TRY004
        if not isinstance(options(part), dict):
            raise ValueError(f"config.yaml is not of this package: {key}.init_args is no group")  # noqa: TRY004
    if options(config["data"]).get("game") in (None, []):
        raise ValueError("config.yaml is not of this package: no data.game")
    seed = config.get("seed_everything", 0)
    if type(seed) is not int:
        raise ValueError(f"config.yaml: seed_everything must be an integer, found {seed!r}")
    return dict(config)


def _check_extent(config: object) -> None:
    """Raises a ValueError for more values than any run has, as aliases of aliases make in a small file."""
    left, seen = [config], 0
    while left:
        value, seen = left.pop(), seen + 1
        if seen > _MOST_VALUES:
            raise ValueError(f"config.yaml is not of this package: more than {_MOST_VALUES} values")
        left += list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def _check_same_play(tested: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Raises a ValueError where `test` was told to play in another way than the run has learned."""
    data, model = options(config["data"]), options(config["model"])
    asked = {"distribution_mode": data.get("distribution_mode"), "greedy": model.get("greedy", False)}
    for key, value in asked.items():
        if value is not None and tested.get(key, value) != value:
            raise ValueError(f"test.json is of another way to play: {key} {tested[key]}, config.yaml has {value}")


def _canonical(suite: str, games: tuple[str, ...]) -> tuple[str, ...]:
    if suite != "atari":
        return games
    from lightning_rl.envs.atari_games import canonical_game  # loads the emulator

    return tuple(map(canonical_game, games))


def _rows(path: Path) -> list[Row]:
    try:
        rows = read_metrics(path)
        for row in rows:
            _check_size([int(row["env_steps"]), *(float(value) for key, value in row.items() if "return" in key)])
    except UnicodeDecodeError as error:
        raise ValueError("metrics.csv is no text") from error
    except KeyError as error:
        raise ValueError("metrics.csv has a row without env_steps") from error
    except ValueError as error:
        raise ValueError(f"metrics.csv is damaged: {str(error).removeprefix(f'{path}: ')}") from error
    return rows


def _check_size(values: Sequence[float | int]) -> None:
    """Raises a ValueError for what no run has ever reached, and no plot can show."""
    if any(abs(value) > _LARGEST for value in values):  # which infinity is, and NaN is not
        raise ValueError(f"a number is larger than {_LARGEST:g}")


def _finished(rows: Sequence[Row], total: object) -> int:
    """Env steps of the last row; an unfinished run's say nothing of its setting."""
    if not rows:
        raise ValueError("metrics.csv has no row, and there is no test.json")
    if not any(key.startswith("validation/return") for row in rows for key in row):
        raise ValueError("metrics.csv has no validation/return, and there is no test.json")
    reached = int(rows[-1]["env_steps"])
    if reached <= 0:
        raise ValueError(f"metrics.csv: env_steps must be positive, found {reached}")
    if isinstance(total, int) and reached < 0.95 * total:
        raise ValueError(f"is unfinished: {reached} of {total} env steps; `lightning-rl test` judges it as it is")
    return reached


def _counted(tested: Mapping[str, Any], rows: Sequence[Row]) -> int:
    """Env steps that a test stands for: those of its checkpoint, but of `best.ckpt`, chosen from all, the run's."""
    end = int(rows[-1]["env_steps"]) if rows and _file_name(tested.get("checkpoint")) == "best.ckpt" else 0
    return max(int(tested["env_steps"]), end)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"test.json is not JSON: {error}") from error
    kinds: dict[str, type] = {"method": str, "game": str, "env_steps": int}
    for key, kind in kinds.items():
        if not isinstance(found, dict) or type(found.get(key)) is not kind:
            raise ValueError(f"test.json is not of this package: no {key}")
    if not 0 < found["env_steps"] <= _LARGEST:
        raise ValueError("test.json: env_steps must be positive, and no more than a run can make")
    return dict(found)


def _level_sets(tested: Mapping[str, Any], games: tuple[str, ...]) -> dict[str, dict[str, Mapping[str, Any]]]:
    by_game = _by_game(tested, games)
    lacking = [game for game in games if not isinstance(by_game.get(game), dict)]
    if lacking:
        raise ValueError(f"test.json has no results of {', '.join(lacking)}")
    return {game: _checked(by_game[game].get("level_sets")) for game in games}


def _file_name(path: object) -> str | None:
    return Path(path).name if isinstance(path, str) else None


def _by_game(tested: Mapping[str, Any], games: tuple[str, ...]) -> Mapping[str, Any]:
    return tested["games"] if isinstance(tested.get("games"), dict) else {games[0]: tested}


def _kept(tested: Mapping[str, Any], games: tuple[str, ...]) -> dict[str, float]:
    found = {game: _by_game(tested, games)[game].get("teacher_return_kept") for game in games}
    shares = {game: kept.get("share") for game, kept in found.items() if isinstance(kept, dict)}
    numbers = {game: share for game, share in shares.items() if isinstance(share, int | float)}
    return {game: float(share) for game, share in numbers.items() if abs(share) <= _LARGEST}  # which NaN is not


def _checked(level_sets: object) -> dict[str, Mapping[str, Any]]:
    if not isinstance(level_sets, dict) or not isinstance(level_sets.get("full_distribution"), dict):
        raise ValueError("test.json has no level_sets.full_distribution")  # noqa: TRY004
    found = {name: level_sets[name] for name in LEVEL_SETS if isinstance(level_sets.get(name), dict)}
    for name, values in found.items():
        value = values.get("return_mean")
        if not isinstance(value, int | float) or not abs(value) <= _LARGEST:  # NaN is not
            raise ValueError(f"test.json: return_mean of {name} must be a finite number, found {value!r:.40}")
    return found
