"""`episodes.npz`: the episodes that `test` played, each of which can be played again."""

import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor

from lightning_rl.runs.atomic_files import atomic_write
from lightning_rl.types import Episodes

NAME = "episodes.npz"
_MOST_BYTES = 2**30  # of one array: a file from elsewhere may claim anything
_KINDS = {
    "games": ("U", 0),
    "game": ("U", 1),
    "level_set": ("U", 1),
    "level_seed": ("i", 1),
    "start": ("i", 2),
    "return": ("f", 1),
    "length": ("i", 1),
    "offset": ("i", 1),
    "actions": ("iu", 1),
}
"""Kinds of numbers, and axes, of each array."""
_UNREADABLE = (
    EOFError,
    MemoryError,  # which an array's own header may claim
    NotImplementedError,  # zipfile's, of a compression that it does not know
    OSError,
    RuntimeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)
_SOME_GAMES = ("game", "level_seed", "start")  # which of them depends on the games


@dataclass(frozen=True, kw_only=True)
class PlayedEpisode:
    """One row of the file.

    Attributes:
        number: the row.
        class_path: data module whose games were played.
        init_args: its options.
        level_set: name of the levels.
        episode_return: sum of the game's rewards.
        length: env steps.
        actions: what was done, step by step.
        level_seed: the level that it began on; None for games without levels.
        start: where else it began; None where the level says that.
    """

    number: int
    class_path: str
    init_args: dict[str, Any]
    level_set: str
    episode_return: float
    length: int
    actions: Int64[NDArray[Any], "T"]
    level_seed: int | None
    start: Int64[NDArray[Any], "K"] | None


class EpisodeRow(NamedTuple):
    """What one row of the file says of its episode, its actions left out; `PlayedEpisode` says what is what."""

    number: int
    game: str
    level_set: str
    level_seed: int | None
    episode_return: float
    length: int


def write_episodes(path: Path, sets: Mapping[Any, Episodes], *, class_path: str, init_args: Mapping[str, Any]) -> None:
    """Writes the episodes of all level sets, one row each.

    Args:
        path: the file.
        sets: episodes, with their actions, by their level set, and their game where there are several.
        class_path: data module whose games were played.
        init_args: its options.
    """
    episodes = list(sets.values())
    lengths = np.concatenate([one.lengths.numpy() for one in episodes])
    actions = np.concatenate([one.actions.numpy() for one in episodes if one.actions is not None])
    games = np.concatenate([np.full(len(one.returns), one.game) for one in episodes])
    arrays = {
        "games": np.array(json.dumps({"class_path": class_path, "init_args": dict(init_args)})),
        "game": games if any(games) else None,
        "level_set": np.concatenate([np.full(len(one.returns), one.level_set) for one in episodes]),
        "level_seed": _joined([one.level_seeds for one in episodes]),
        "start": _joined([one.starts for one in episodes]),
        "return": _joined([one.returns for one in episodes]),
        "length": lengths,
        "offset": np.cumsum(lengths) - lengths,
        "actions": actions.astype(np.uint8 if actions.max(initial=0) < 2**8 else np.int64),
    }
    with atomic_write(path) as file:
        np.savez_compressed(file, **{name: a for name, a in arrays.items() if a is not None})


def _joined(parts: list[Tensor | None]) -> NDArray[Any] | None:
    known = [part.numpy() for part in parts if part is not None]
    return np.concatenate(known) if len(known) == len(parts) else None


def read_episode(path: Path, number: int) -> PlayedEpisode:
    """One row of a file, which may come from a stranger.

    Raises:
        ValueError: the file is damaged or another kind of file, or has no such row; says which.
    """
    arrays = _arrays(path)
    count = len(arrays["return"])
    if not 0 <= number < count:
        raise ValueError(f"must be a row of {path}, from 0 to {count - 1}, found {number}")
    class_path, init_args = _games(path, arrays)
    first, length = int(arrays["offset"][number]), int(arrays["length"][number])
    actions = arrays["actions"]
    if not (first >= 0 and 0 < length <= len(actions) - first):
        raise ValueError(f"{path} is damaged: row {number} lies outside of the actions")
    start = arrays.get("start")
    if "game" in arrays:
        init_args["game"] = str(arrays["game"][number])
    return PlayedEpisode(
        number=number,
        class_path=class_path,
        init_args=init_args,
        level_set=str(arrays["level_set"][number]),
        episode_return=float(arrays["return"][number]),
        length=length,
        actions=actions[first : first + length].astype(np.int64),
        level_seed=int(arrays["level_seed"][number]) if "level_seed" in arrays else None,
        start=None if start is None else start[number].astype(np.int64),
    )


def read_rows(path: Path) -> list[EpisodeRow]:
    """What a file, which may come from a stranger, says of each episode.

    Raises:
        ValueError: the file is damaged or another kind of file; says which.
    """
    arrays = _arrays(path)
    _, init_args = _games(path, arrays)
    count = len(arrays["return"])
    columns: list[list[Any]] = [
        arrays["game"].tolist() if "game" in arrays else [str(init_args.get("game", ""))] * count,
        arrays["level_set"].tolist(),
        arrays["level_seed"].tolist() if "level_seed" in arrays else [None] * count,
        arrays["return"].tolist(),
        arrays["length"].tolist(),
    ]
    return [EpisodeRow(number, *row) for number, row in enumerate(zip(*columns, strict=True))]


def _games(path: Path, arrays: Mapping[str, NDArray[Any]]) -> tuple[str, dict[str, Any]]:
    """The data module whose games were played, and its options."""
    try:
        games = json.loads(str(arrays["games"]))
        return str(games["class_path"]), dict(games["init_args"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ValueError(f"{path} does not say which games were played: {error}") from error


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            largest = max(archive.infolist(), key=lambda member: member.file_size)
        too_large = largest.file_size > _MOST_BYTES
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in _KINDS if name in file and not too_large}
    except _UNREADABLE as error:
        raise ValueError(f"{path} cannot be read as a file of episodes: {error}") from error
    if too_large:
        raise ValueError(f"{path} is no file of episodes: {largest.filename} has more than {_MOST_BYTES} bytes")
    if missing := [name for name in _KINDS if name not in arrays and name not in _SOME_GAMES]:
        raise ValueError(f"{path} is no file of episodes: it has no {missing[0]}")
    for name, array in arrays.items():
        kinds, axes = _KINDS[name]
        if array.dtype.kind not in kinds or array.ndim != axes:
            raise ValueError(f"{path} is damaged: {name} is an array of {array.dtype} with {array.ndim} axes")
    rows = {len(arrays[name]) for name in arrays if name not in ("games", "actions")}
    if len(rows) != 1:
        raise ValueError(f"{path} is damaged: its arrays have {' and '.join(map(str, sorted(rows)))} rows")
    return arrays
