"""`predict --replay`: what it says of episodes that cannot be played again, or come out otherwise."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from lightning_rl.cli import main
from lightning_rl.data.evaluation_dataset import UniformPolicy
from lightning_rl.data.procgen import ProcgenDataModule
from lightning_rl.media.recorder import EpisodeRecorder
from lightning_rl.runs.episodes_file import NAME, write_episodes
from tests.support.command_lines import refusal

OPTIONS: dict[str, Any] = {"game": "dodgeball", "num_threads": 0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes of random play."""
    data = ProcgenDataModule(**OPTIONS, seed=3)
    found = tmp_path_factory.mktemp("played")
    (episodes,) = data.evaluation("full_distribution", UniformPolicy(15), num_envs=2, is_test=True)
    write(found, episodes)
    return found


def write(folder: Path, episodes: Any, **games: Any) -> None:
    class_path = games.pop("class_path", "lightning_rl.ProcgenDataModule")
    write_episodes(folder / NAME, {"all": episodes}, class_path=class_path, init_args=OPTIONS | games)


def changed(source: Path, folder: Path, change: Callable[[dict[str, NDArray[Any]]], Any]) -> Path:
    """A copy of the file of which something is changed."""
    with np.load(source / NAME) as file:
        arrays = dict(file)
    change(arrays)
    np.savez(folder / NAME, **arrays)
    return folder


def another_return(arrays: dict[str, NDArray[Any]]) -> None:
    arrays["return"][1] += 3


def another_action(arrays: dict[str, NDArray[Any]]) -> None:
    arrays["actions"][0] = 200


def another_class(arrays: dict[str, NDArray[Any]]) -> None:
    arrays["games"] = np.array(str(arrays["games"]).replace("ProcgenDataModule", "AtariDataModule"))


def no_game(arrays: dict[str, NDArray[Any]]) -> None:
    arrays["games"] = np.array('{"class_path": "lightning_rl.AtariDataModule", "init_args": {"game": null}}')


def test_another_outcome_than_was_recorded_is_an_error(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed(folder, tmp_path, another_return)

    assert main(["predict", "--replay", str(tmp_path), "--episode", "1"]) == 1

    assert "another episode was recorded, of return" in capsys.readouterr().err
    assert (tmp_path / "media" / "episode_1.mp4").exists()
    assert main(["predict", "--replay", str(tmp_path), "--episode", "0"]) == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (another_action, "replay: row 0 of {file} cannot be played: actions must be"),
        (another_class, "replay: {file} has options that AtariDataModule does not take: "),
        (no_game, "replay: {file} has options that AtariDataModule does not take: "),
    ],
)
def test_what_cannot_be_played_is_told_in_one_line(
    change: Callable[[dict[str, NDArray[Any]]], None],
    told: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    changed(folder, tmp_path, change)

    assert told.format(file=tmp_path / NAME) in refusal(["predict", "--replay", str(tmp_path)], capsys)
    assert not (tmp_path / "media").exists()


@pytest.mark.parametrize("option", ["replay", "run_dir"])
def test_an_empty_path_is_refused(option: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["predict", "--replay", str(folder), f"--{option}", ""]

    assert f"{option} must be a path, found an empty text" in refusal(args, capsys)


@pytest.mark.parametrize(("options", "frames"), [({}, 1000), ({"max_steps": math.inf}, 1005)])
def test_a_video_has_as_many_steps_as_it_may(options: dict[str, Any], frames: int, tmp_path: Path) -> None:
    recorder = EpisodeRecorder(**options)
    for _ in range(1005):
        recorder(np.zeros((1, 8, 8, 3), dtype=np.uint8), np.ones(1, dtype=bool))
    assert recorder.is_cut == (frames < 1005)
    recorder.write(tmp_path / "video.mp4")

    with av.open(str(tmp_path / "video.mp4")) as file:
        assert sum(1 for _ in file.decode(video=0)) == frames
