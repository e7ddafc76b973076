"""Whether the games of a checkpoint can go on in this run."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from lightning_rl.data.actor_pool import check_pool
from lightning_rl.data.collector import CollectorState
from lightning_rl.data.replay import ReplayState
from lightning_rl.state import from_plain
from lightning_rl.types import State

HALVES = "halves"
"""What older files do not say, whose environments were stepped at once."""
_ANEW = ", or --allow_inexact_resume true to start the games anew"


@dataclass(frozen=True, kw_only=True)
class GamesState:
    """What a data module saves beside the sizes of its run: the states of the collectors of all ranks."""

    env_steps: int
    collectors: Annotated[list[State], "R"]


def read_games(state: State) -> GamesState:
    """What a data module has saved, of whatever games.

    Raises:
        ValueError: no data module saves this; names the key.
    """
    with _of_the_checkpoint():
        games = from_plain(GamesState, state, "")
        for index, collector in enumerate(games.collectors):
            if "replay" in collector:
                from_plain(ReplayState, collector["replay"], f"collectors.{index}.replay")
    return games


def is_exact(state: State, sizes: dict[str, Any]) -> bool:
    """Whether a run of these sizes continues the saved games where they stopped, rather than starting others.

    Args:
        state: what a data module has saved.
        sizes: what decides whether games can go on, by the key under which it is saved.
    """
    return all(_saved(state, key) == here for key, here in sizes.items())


def _saved(state: State, key: str) -> Any:
    return state.get(key, 1 if key == HALVES else None)


def check_games(state: State, sizes: dict[str, Any], *, allow_inexact: bool) -> GamesState:
    """Refuses saved games that cannot go on in a run of these sizes, before any is started.

    Args:
        state: what a data module has saved.
        sizes: see `is_exact`; with `num_envs`, `num_actors` and `num_ranks`.
        allow_inexact: accept other numbers of environments, actors and ranks, with games started anew.

    Raises:
        ValueError: names what differs, or the key of what no collector saves.
    """
    games = read_games(state)
    has_replay = any("replay" in collector for collector in games.collectors)
    remedies = {
        "num_envs": _ANEW,
        "num_actors": _ANEW,
        HALVES: _ANEW,
        "num_ranks": ": a replay belongs to its rank" if has_replay else _ANEW,
    }
    for key, here in sizes.items():
        remedy = remedies.get(key, "")
        if (saved := _saved(state, key)) != here and not (remedy == _ANEW and allow_inexact):
            raise ValueError(f"ckpt_path: the checkpoint has {key} {saved}, this run {here}; give the same{remedy}")
    if is_exact(state, sizes):
        _check_collectors(state, sizes)
    return games


def _check_collectors(state: State, sizes: dict[str, Any]) -> None:
    num_envs, num_actors = sizes["num_envs"], sizes["num_actors"]
    with _of_the_checkpoint():
        games = from_plain(GamesState, state, "", R=sizes["num_ranks"])
        for index, collector in enumerate(games.collectors):
            key = f"collectors.{index}"
            if num_actors:
                check_pool(collector, key, num_envs=num_envs, num_actors=num_actors)
            else:
                from_plain(CollectorState, collector, key, B=num_envs)


@contextmanager
def _of_the_checkpoint() -> Iterator[None]:
    """Says that a refused key is one of the checkpoint."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"ckpt_path: the checkpoint's {error}") from error
