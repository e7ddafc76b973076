"""An episode that `test` played comes out the same when its actions are played again from where it began."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lightning_rl.data.atari import AtariDataModule
from lightning_rl.data.datamodule import RolloutDataModule
from lightning_rl.data.episode_replay import Replayed, replay
from lightning_rl.data.evaluation_dataset import UniformPolicy
from lightning_rl.data.procgen import ProcgenDataModule
from lightning_rl.envs.procgen_games import GAMES
from lightning_rl.runs.episodes_file import read_episode, write_episodes
from lightning_rl.types import Episodes

NUM_ENVS = 2


class Frames:
    """A watcher that keeps what it sees."""

    def __init__(self) -> None:
        self.seen: list[NDArray[Any]] = []

    def __call__(self, obs: NDArray[Any], playing: NDArray[np.bool_]) -> None:
        self.seen.append(obs.copy())

    def of(self, index: int) -> NDArray[Any]:
        """The frames of one environment."""
        return np.stack([frames[index] for frames in self.seen])


def played(data: RolloutDataModule, file: Path, *, episodes_per_env: int = 1) -> tuple[Episodes, Frames]:
    """What random actions bring, and all frames; the episodes are in the file."""
    frames = Frames()
    sizes: dict[str, Any] = {"num_envs": NUM_ENVS, "episodes_per_env": episodes_per_env, "is_test": True}
    (episodes,) = data.evaluation("train_levels", UniformPolicy(data.num_actions), **sizes, watcher=frames)
    write_episodes(file, {"train_levels": episodes}, class_path="of no interest", init_args={})
    return episodes, frames


def replayed(data: Any, file: Path, number: int) -> tuple[Replayed, NDArray[Any]]:
    frames = Frames()
    return replay(data, read_episode(file, number), watcher=frames), frames.of(0)


@pytest.mark.parametrize("mode", ["easy", pytest.param("hard", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "game", [pytest.param(game, marks=[pytest.mark.slow] * (game not in ("dodgeball", "ninja"))) for game in GAMES]
)
def test_of_procgen(game: str, mode: str, tmp_path: Path) -> None:
    data = ProcgenDataModule(game=game, distribution_mode=mode, num_levels=50, seed=3, num_threads=0)
    episodes, frames = played(data, tmp_path / "file")

    for number, (total, length) in enumerate(zip(episodes.returns.tolist(), episodes.lengths.tolist(), strict=True)):
        outcome, seen = replayed(data, tmp_path / "file", number)
        assert outcome == Replayed(total, length, is_over=True)
        assert any(np.array_equal(seen, frames.of(index)[:length]) for index in range(NUM_ENVS))


@pytest.mark.parametrize("sticky_actions", [False, True])
@pytest.mark.parametrize(("game", "steps"), [("breakout", 70), ("assault", 150), ("beam_rider", 150)])
def test_of_atari(game: str, steps: int, sticky_actions: bool, tmp_path: Path) -> None:
    """The second episodes, too, which open with other no-ops and go on with another random stream.

    A reset of the emulator keeps memory of the play before in the last two games.
    """
    data = AtariDataModule(game=game, sticky_actions=sticky_actions, max_episode_steps=steps, seed=3)
    episodes, frames = played(data, tmp_path / "file", episodes_per_env=2)
    assert episodes.lengths.tolist() == [steps] * 4

    for number in range(4):
        row, index = divmod(number, NUM_ENVS)
        outcome, seen = replayed(data, tmp_path / "file", number)
        assert outcome == Replayed(float(episodes.returns[number]), steps, is_over=True)
        assert np.array_equal(seen, frames.of(index)[row * steps : (row + 1) * steps])


def test_other_actions_are_noticed(tmp_path: Path) -> None:
    data = ProcgenDataModule(game="dodgeball", seed=3, num_threads=0)
    episodes, _ = played(data, tmp_path / "file")
    recorded = read_episode(tmp_path / "file", 0)

    shortened = replace(recorded, actions=recorded.actions[:-1])

    assert replay(data, shortened) == Replayed(float(episodes.returns[0]), recorded.length - 1, is_over=False)


def test_where_it_began_must_be_known(tmp_path: Path) -> None:
    data = ProcgenDataModule(game="dodgeball", seed=3, num_threads=0)
    played(data, tmp_path / "file")
    recorded = replace(read_episode(tmp_path / "file", 0), level_seed=None)

    with pytest.raises(ValueError, match="begins on a level, found none"):
        replay(data, recorded)
    with pytest.raises(ValueError, match="begins at a state of its random stream, found none"):
        replay(AtariDataModule(game="pong", seed=3), recorded)
