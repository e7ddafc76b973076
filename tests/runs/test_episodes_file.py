"""`episodes.npz`: rows come back as they were, and files from elsewhere are refused in one line."""

import json
import pickle
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_rl.runs.episodes_file import EpisodeRow, read_episode, read_rows, write_episodes
from lightning_rl.types import Episodes

LENGTHS = [2, 3, 1]
GAMES: dict[str, Any] = {"class_path": "lightning_rl.ProcgenDataModule", "init_args": {"game": "maze", "num_levels": 7}}


def some_episodes(level_set: str, *, seeds: bool = True, starts: bool = False) -> Episodes:
    count = len(LENGTHS)
    return Episodes(
        level_set=level_set,
        returns=torch.tensor([0.5, -1.0, 3.25], dtype=torch.float64),
        lengths=torch.tensor(LENGTHS),
        level_complete=None,
        actions=torch.arange(sum(LENGTHS)),
        level_seeds=torch.tensor([2**31 - 2, 5, 0]) if seeds else None,
        starts=-torch.arange(2 * count).reshape(count, 2) if starts else None,
    )


@pytest.fixture
def file(tmp_path: Path) -> Path:
    sets = {name: some_episodes(name) for name in ("train_levels", "full_distribution")}
    write_episodes(tmp_path / "episodes.npz", sets, **GAMES)
    return tmp_path / "episodes.npz"


def test_a_row_is_an_episode(file: Path) -> None:
    episode = read_episode(file, 4)
    assert (episode.number, episode.level_set, episode.level_seed) == (4, "full_distribution", 5)
    assert (episode.episode_return, episode.length, episode.actions.tolist()) == (-1.0, 3, [2, 3, 4])
    assert (episode.class_path, episode.init_args, episode.start) == (*GAMES.values(), None)


def test_the_rows_are_told_without_their_actions(file: Path) -> None:
    rows = read_rows(file)

    assert [row.number for row in rows] == list(range(6))
    assert rows[4] == EpisodeRow(4, "maze", "full_distribution", 5, -1.0, 3)


def test_games_without_levels_begin_where_they_say(tmp_path: Path) -> None:
    write_episodes(
        tmp_path / "file", {"all": some_episodes("all", seeds=False, starts=True)}, class_path="x", init_args={}
    )
    episode = read_episode(tmp_path / "file", 2)
    assert episode.level_seed is None
    assert episode.start is not None
    assert episode.start.tolist() == [-4, -5]
    assert read_rows(tmp_path / "file")[2] == EpisodeRow(2, "", "all", None, 3.25, 1)


def test_it_has_the_arrays_that_others_rely_on(file: Path) -> None:
    with np.load(file, allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays}
    assert found.keys() >= {"level_set", "level_seed", "return", "length", "actions", "offset"}
    assert found["offset"].tolist() == [0, 2, 5, 6, 8, 11]
    assert (found["actions"].dtype, len(found["actions"])) == (np.uint8, 12)


def rewritten(file: Path, **changed: Any) -> None:
    with np.load(file) as arrays:
        found = {name: arrays[name] for name in arrays} | changed
    np.savez(file, **{name: value for name, value in found.items() if value is not None})


class Fired:
    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("fired"),)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (Path.unlink, "cannot be read as a file of episodes"),
    "empty": (lambda file: file.write_bytes(b""), "cannot be read as a file of episodes"),
    "cut": (lambda file: file.write_bytes(file.read_bytes()[:-99]), "cannot be read as a file of episodes"),
    "another kind": (lambda file: file.write_text("not a zip"), "cannot be read as a file of episodes"),
    "a pickle": (lambda file: file.write_bytes(pickle.dumps(Fired())), "cannot be read as a file of episodes"),
    "pickled actions": (
        lambda file: rewritten(file, actions=np.array([Fired()], dtype=object)),
        "cannot be read as a file of episodes",
    ),
    "no actions": (lambda file: rewritten(file, actions=None), "it has no actions"),
    "fewer seeds": (lambda file: rewritten(file, level_seed=np.zeros(5, int)), "its arrays have 5 and 6 rows"),
    "real actions": (lambda file: rewritten(file, actions=np.zeros(12)), "actions is an array of float64"),
    "a table of lengths": (
        lambda file: rewritten(file, length=np.ones((6, 2), int)),
        "length is an array of int64 with 2",
    ),
    "no games": (lambda file: rewritten(file, games=np.array("{")), "does not say which games were played"),
    "a list of games": (lambda file: rewritten(file, games=np.array("[]")), "does not say which games were played"),
    "an offset below": (lambda file: rewritten(file, offset=np.full(6, -1)), "row 1 lies outside of the actions"),
    "an offset beyond": (lambda file: rewritten(file, offset=np.full(6, 10)), "row 1 lies outside of the actions"),
    "no length": (lambda file: rewritten(file, length=np.zeros(6, int)), "row 1 lies outside of the actions"),
}


@pytest.mark.parametrize(("damage", "told"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_hostile_or_foreign_file_is_refused_and_nothing_is_executed(
    damage: Callable[[Path], object], told: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    damage(file)
    with pytest.raises(ValueError, match=re.escape(told)) as error:
        read_episode(file, 1)
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)
    assert not Path("fired").exists()


@pytest.mark.parametrize("number", [-1, 6])
def test_a_row_that_is_not_there_is_refused(number: int, file: Path) -> None:
    with pytest.raises(ValueError, match=rf"from 0 to 5, found {number}"):
        read_episode(file, number)


def test_games_are_json(file: Path) -> None:
    with np.load(file) as arrays:
        assert json.loads(str(arrays["games"])) == GAMES


def test_of_several_games_a_row_says_its_own(tmp_path: Path) -> None:
    sets = {game: replace(some_episodes("all"), game=game) for game in ("maze", "heist")}
    write_episodes(tmp_path / "file", sets, class_path="x", init_args={"game": ["maze", "heist"], "num_levels": 5})

    assert read_episode(tmp_path / "file", 2).init_args == {"game": "maze", "num_levels": 5}
    assert read_episode(tmp_path / "file", 3).init_args == {"game": "heist", "num_levels": 5}
    assert [row.game for row in read_rows(tmp_path / "file")] == ["maze"] * 3 + ["heist"] * 3
