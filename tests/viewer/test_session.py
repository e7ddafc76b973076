import numpy as np
import pytest

from lightning_rl.viewer.levels import Levels
from lightning_rl.viewer.session import Session
from tests.viewer.walk import FIRE, LEFT, LENGTH, NONE, RIGHT, RightPolicy, column, walk


def played(session: Session, steps: int) -> list[int]:
    """Where the column is after each of so many steps."""
    found = []
    for _ in range(steps):
        session.step()
        found.append(column(session.now.frame))
    return found


def test_the_agent_samples_its_actions_and_its_greedy_ones_are_the_likeliest() -> None:
    session = Session(walk(policy=RightPolicy()))
    played(session, 30)
    sampled = set(session.now.episode.actions)
    session.greedy = True
    played(session, 5)

    assert sampled == {LEFT, NONE, RIGHT, FIRE}
    assert session.now.episode.actions[30:] == [RIGHT] * 5


def test_going_back_brings_back_frames_state_and_random_numbers() -> None:
    session = Session(walk(policy=RightPolicy()))
    before = played(session, 20)
    actions, values = list(session.now.episode.actions), list(session.now.episode.values)

    session.history.seek(8)
    shown = column(session.now.frame)
    after = played(session, 12)

    assert shown == before[7]
    assert after == before[8:]
    assert session.now.episode.actions == actions
    assert session.now.episode.values == values == [float(number) for number in range(1, 22)]


def test_what_came_after_the_moment_is_forgotten_once_time_goes_on() -> None:
    session = Session(walk(policy=RightPolicy()))
    played(session, 20)

    session.history.seek(8)
    session.hand_to("person")
    session.step()

    assert (len(session.history), session.now.length, len(session.now.episode.actions)) == (10, 9, 9)
    assert session.now.episode.actions[-1] == NONE


def test_going_back_to_an_earlier_episode_of_another_level() -> None:
    session = Session(walk(policy=RightPolicy()))
    before = played(session, LENGTH)
    session.begin(6)
    played(session, 3)

    session.history.seek(10)
    after = played(session, LENGTH - 10)

    assert session.now.episode.level == 3
    assert session.now.is_over
    assert after == before[10:]


def test_a_person_takes_over_and_gives_back() -> None:
    session = Session(walk(policy=RightPolicy(), greedy=True))
    session.step()
    session.hand_to("person")
    session.held = LEFT
    played(session, 2)
    session.hand_to("agent")
    session.step()

    assert session.now.episode.actions == [RIGHT, LEFT, LEFT, RIGHT]
    assert session.now.total == 2


def test_without_an_agent_actions_are_random_and_none_can_take_over() -> None:
    session = Session(walk())
    played(session, 30)

    assert set(session.now.episode.actions) == {LEFT, NONE, RIGHT, FIRE}
    assert session.now.output is None
    with pytest.raises(ValueError, match="found agent"):
        session.hand_to("agent")


@pytest.mark.parametrize(("at_end", "level"), [("next", 4), ("same", 3)])
def test_an_episode_ends_and_another_one_begins(at_end: str, level: int) -> None:
    session = Session(walk(policy=RightPolicy(), greedy=True))
    session.at_end = at_end  # type: ignore[assignment]
    played(session, LENGTH)
    assert (session.now.is_over, session.now.length, session.now.total) == (True, LENGTH, LENGTH)

    session.step()

    now = session.now
    assert (now.is_over, now.length, now.total, now.episode.level, column(now.frame)) == (False, 0, 0.0, level, level)
    assert now.episode.values == [1.0]  # the agent's memory of the episode before is gone


def test_a_level_and_its_actions_are_played_again() -> None:
    session = Session(walk(policy=RightPolicy()))
    session.begin(5)
    before = played(session, 15)

    session.replay(5, list(session.now.episode.actions))
    after = played(session, 15)

    assert after == before
    assert (session.played_by, session.is_paused) == ("agent", True)


@pytest.mark.parametrize(
    ("level", "step", "other"), [(3, 1, 4), (7, 1, 3), (3, -1, 7), (8, 1, 9), (8, -1, 2), (2, 1, 8), (0, -1, 2**31 - 2)]
)
def test_the_level_beside_is_of_the_same_set(level: int, step: int, other: int) -> None:
    levels = Levels(count=5, first=3)

    assert levels.beside(level, step) == other
    assert levels.set_of(level) == levels.set_of(other)


def test_games_without_training_levels_count_on() -> None:
    levels = Levels(count=0, first=0)

    assert [levels.beside(5, 1), levels.beside(5, -1), levels.first_of("unseen")] == [6, 4, 0]


@pytest.mark.parametrize("level", [-1, 2**31 - 1])
def test_a_level_that_there_is_not_is_refused(level: int) -> None:
    session = Session(walk())

    with pytest.raises(ValueError, match=f"found {level}"):
        session.begin(level)


def test_only_the_last_minute_is_kept() -> None:
    session = Session(walk(policy=RightPolicy()))
    played(session, 1000)

    assert len(session.history) == 900
    session.history.seek(0)
    assert np.isclose(session.now.length, (1000 - 899) % (LENGTH + 1))
