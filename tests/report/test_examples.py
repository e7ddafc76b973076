"""The episodes that a report names: the worst, the median and the best, by their row in the file."""

import math
from pathlib import Path

import pytest

from lightning_rl.report.examples import Example, examples
from lightning_rl.report.run_folders import LEVEL_SETS, read_runs
from lightning_rl.runs.episodes_file import read_episode
from tests.support.result_folders import config, metrics, results, write_played, write_run

RETURNS = {
    "random_policy": (9.0, 9.0),
    "full_distribution": (4.0, 1.0, 7.0, 1.0, 2.0),
    "train_levels": (3.0, 8.0),
}


def test_they_are_the_worst_the_median_and_the_best_of_each_level_set(tmp_path: Path) -> None:
    path = write_played(tmp_path, RETURNS)

    found = examples(path, LEVEL_SETS)

    assert found == [
        Example("starpilot", "train_levels", (3.0, 3.0, 8.0), (7, 7, 8)),
        Example("starpilot", "full_distribution", (1.0, 2.0, 7.0), (3, 6, 4)),
    ]
    for one in found:
        for value, row in zip(one.returns, one.rows, strict=True):
            episode = read_episode(path, row)
            assert (episode.level_set, episode.episode_return) == (one.level_set, value)


def test_a_run_has_those_of_its_test(tmp_path: Path) -> None:
    tested = write_run(tmp_path / "tested", config(seed=1), results(train=5.0, full=4.0))
    interrupted = write_run(tmp_path / "interrupted", config(seed=2), rows=metrics(4.0))
    for folder in (tested, interrupted):
        write_played(folder, RETURNS)

    runs, left_out = read_runs([tmp_path])

    assert left_out == []
    assert {run.folder: [one.level_set for one in run.examples] for run in runs} == {
        tested: ["train_levels", "full_distribution"],
        interrupted: [],
    }


def test_atari_games_have_one_name(tmp_path: Path) -> None:
    game = {"data": {"class_path": "lightning_rl.AtariDataModule", "init_args": {"game": "MsPacman"}}}
    run = write_run(tmp_path / "run", config() | game, results(train=None, full=4.0, game="ms_pacman"))
    write_played(run, {"full_distribution": (1.0,)}, game="MsPacman")

    [found], _ = read_runs([run])

    assert [one.game for one in found.examples] == ["ms_pacman"]


@pytest.mark.parametrize(
    ("game", "value", "why"),
    [
        ("starpilot", math.nan, "has a return that is no number, in row 0"),
        ("starpilot", math.inf, "has a return that is no number, in row 0"),
        ("coinrun", 1.0, "is of another run: game coinrun, config.yaml has starpilot"),
        ("\ud800", 1.0, "is of another run: "),
    ],
)
def test_episodes_of_another_run_or_without_numbers_are_left_out(
    game: str, value: float, why: str, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", config(), results(train=5.0, full=4.0))
    write_played(run, {"full_distribution": (value, 2.0)}, game=game)

    [found], [(_, told)] = read_runs([tmp_path])

    assert found.examples == ()
    assert told.startswith(why)
    assert told.isprintable()


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04"])
def test_a_damaged_file_is_named_and_its_run_reported(content: bytes, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", config(), results(train=5.0, full=4.0))
    (run / "episodes.npz").write_bytes(content)

    runs, [(name, why)] = read_runs([tmp_path])

    assert [found.folder for found in runs] == [run]
    assert name == str(run / "episodes.npz")
    assert why.startswith("cannot be read as a file of episodes: ")
    assert why.endswith("; the run itself is reported")
