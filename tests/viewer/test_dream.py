"""The world model alone and beside the game."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lightning_rl.viewer.description import images_of, numbers_of
from lightning_rl.viewer.session import Session
from tests.viewer.walk import (
    LENGTH,
    RIGHT_UNTIL,
    SIZE,
    ForgetfulModel,
    RightPolicy,
    WalkVectorEnv,
    column,
    recorded,
    table,
    walk,
)


def started(where: str, *, steps: int = 0, **options: int) -> Session:
    session = Session(walk(policy=RightPolicy(), greedy=True, world_model=ForgetfulModel()))
    session.horizon = options.get("horizon", 0)
    play(session, 3)
    session.go(where)  # type: ignore[arg-type]  # a parameter of the test
    play(session, steps)
    return session


def play(session: Session, steps: int) -> None:
    for _ in range(steps):
        session.step()


def test_side_by_side_it_takes_the_games_actions_and_is_told_to_have_parted() -> None:
    session = started("both", steps=6)
    images = images_of(session.now)

    assert list(images) == ["game", "world model", "difference"]
    assert [column(images[name]) for name in ("game", "world model")] == [3 + 9, 3 + 3 + RIGHT_UNTIL]
    assert sorted(np.flatnonzero(images["difference"][0, :, 0])) == [10, 12]
    numbers = numbers_of(session.now)
    assert (numbers["Model’s step"], numbers["Model’s return"], numbers["Parted at step"]) == (6, 12.0, 5)
    assert numbers["Difference"] == pytest.approx(2 * 255 / SIZE)
    assert session.now.episode.rewards == [1.0] * 9  # the game's own


def test_side_by_side_going_back_brings_the_world_model_back_too() -> None:
    session = started("both", steps=8)
    before = images_of(session.now)

    session.history.seek(len(session.history) - 5)
    play(session, 4)

    after = images_of(session.now)
    assert all((after[name] == image).all() for name, image in before.items())
    assert numbers_of(session.now)["Parted at step"] == 5


@pytest.mark.parametrize(("horizon", "steps"), [(4, 1), (0, 5)])
def test_side_by_side_it_begins_anew_at_the_horizon(horizon: int, steps: int) -> None:
    session = started("both", steps=5, horizon=horizon)

    assert session.now.dream is not None
    assert session.now.dream.steps == steps


def test_alone_it_is_played_while_the_game_waits() -> None:
    session = started("model", steps=6)

    assert list(images_of(session.now)) == ["world model"]
    assert column(session.now.frame) == 6 + RIGHT_UNTIL
    assert (session.now.total, session.now.length, session.now.episode.is_real) == (12.0, 6, False)
    session.go("game")
    assert (column(session.now.frame), session.now.length, session.now.total) == (6, 3, 3.0)
    session.step()
    assert (column(session.now.frame), session.now.episode.rewards) == (7, [1.0] * 4)


def test_alone_it_begins_again_where_it_left_the_game_once_it_says_that_all_is_over() -> None:
    session = started("model", steps=10)
    assert session.now.is_over
    assert session.now.length == 10

    session.step()

    assert (session.now.is_over, session.now.length, column(session.now.frame)) == (False, 0, 6)


def test_going_back_from_the_world_model_into_the_game() -> None:
    session = started("model", steps=6)

    session.history.seek(2)
    session.step()

    assert (session.now.where, session.now.length, column(session.now.frame)) == ("game", 3, 6)


def test_going_back_from_an_episode_of_test_opens_its_game_again() -> None:
    opened: list[str] = []

    def reopened() -> WalkVectorEnv:
        opened.append("recorded")
        return WalkVectorEnv(9)

    session = Session(walk(policy=RightPolicy(), greedy=True, world_model=ForgetfulModel()))
    session.replay_recorded(replace(recorded(level=3), open=reopened))
    play(session, 2)
    session.go("model")
    play(session, 4)

    session.history.seek(len(session.history) - 2)
    play(session, 1)

    assert opened == ["recorded"]  # the game of the episode was never left
    session.go("game")
    assert column(session.now.frame) == 9 - 2


def test_another_level_ends_the_world_models_play() -> None:
    session = started("model", steps=2)

    session.begin(5)

    assert (session.now.where, column(session.now.frame), session.now.episode.is_real) == ("game", 5, True)


def test_the_next_episode_is_played_side_by_side_too() -> None:
    session = started("both", steps=LENGTH)

    assert (session.now.where, session.now.episode.level) == ("both", 4)
    assert session.now.dream is not None
    assert session.now.dream.steps == session.now.length


def test_alone_it_may_begin_at_a_frame_of_the_replay_and_begins_there_anew() -> None:
    session = started("game")
    frames = torch.zeros(1, SIZE, SIZE, 3, dtype=torch.uint8)
    frames[:, :, 11] = 255
    session.scene = replace(session.scene, real_frames=lambda _: frames)
    session.horizon = 2

    session.dream_of_replay()
    shown = [column(session.now.frame)]
    assert numbers_of(session.now)["Began at"] == "a real frame"
    for _ in range(4):
        session.step()
        shown.append(column(session.now.frame))

    assert shown == [11, 12, 13, 11, 12]
    session.go("game")
    session.step()
    assert (column(session.now.frame), session.now.length) == (7, 4)


@pytest.mark.parametrize(("text", "found"), [("-1", "-1.0"), ("nan", "nan"), ("11", "11.0"), ("x", "'x'")])
def test_a_temperature_that_there_is_not_is_refused(text: str, found: str) -> None:
    shown = table(policy=RightPolicy(), world_model=ForgetfulModel())

    with pytest.raises(ValueError, match=found):
        shown.follow("window", {"do": "temperature", "value": text})

    with pytest.raises(ValueError, match=r"temperature must be left out for ForgetfulModel, found 1\.0"):
        shown.follow("window", {"do": "temperature", "value": "1"})


def test_without_a_world_model_only_the_game_is_played() -> None:
    session = Session(walk(policy=RightPolicy()))

    with pytest.raises(ValueError, match="where must be game"):
        session.go("both")
