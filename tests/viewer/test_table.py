"""Several games at once, one of several games, and the episodes that `test` has played."""

from collections.abc import Sequence
from typing import Any

import pytest

from lightning_rl.runs.episodes_file import EpisodeRow
from lightning_rl.viewer.description import described, pictures_of
from lightning_rl.viewer.messages import encoded_actions
from lightning_rl.viewer.moments import Recorded
from lightning_rl.viewer.scene import PlayedEpisodes, Show
from lightning_rl.viewer.table import Table
from tests.viewer.walk import LEFT, LENGTH, RECORDED, RIGHT, RightPolicy, column, recorded, walk


def table(*games: str, episodes: Sequence[Recorded] = (), **options: Any) -> Table:
    scenes = [walk(policy=RightPolicy(), greedy=True, game=game, title=f"ppo on {game}") for game in games or ["walk"]]
    rows = [EpisodeRow(one.number, one.game, "all", one.level, one.episode_return, LENGTH) for one in episodes]
    played = PlayedEpisodes(rows=rows, read=lambda number: episodes[number]) if episodes else None
    return Table(Show(scenes=scenes, episodes=played), **options)


def ask(asked: Table, do: str, **options: Any) -> dict[str, Any]:
    """What a window that says so is told."""
    return asked.follow("window", {"do": do, **options}) or {}


def levels(shown: Table) -> list[int | None]:
    return [session.now.episode.level for session in shown.sessions]


def test_several_levels_are_played_at_once_and_the_next_ones_follow() -> None:
    shown = table()
    ask(shown, "grid", number=4)
    shown.step()

    assert levels(shown) == [3, 4, 5, 6]
    assert [column(image) for image in pictures_of(shown).values()] == [4, 5, 6, 7]
    assert [*pictures_of(shown)] == [f"{place}: level {2 + place}, return 1" for place in (1, 2, 3, 4)]
    assert [described(shown)[key] for key in ("count", "columns", "chosen")] == [4, 2, 0]
    ask(shown, "set", levels="unseen")
    assert levels(shown) == [8, 9, 10, 11]
    ask(shown, "beside", to="next")
    assert levels(shown) == [12, 13, 14, 15]
    ask(shown, "beside", to="previous")
    assert levels(shown) == [8, 9, 10, 11]
    for _ in range(LENGTH + 1):
        shown.step()
    assert levels(shown) == [12, 13, 14, 15]


def test_one_of_them_is_chosen_and_a_person_goes_with_the_choice() -> None:
    shown = table()
    ask(shown, "grid", number=4)
    ask(shown, "who", player="person")
    ask(shown, "choose", number=2)
    ask(shown, "hold", action=LEFT)
    shown.step()

    assert [session.now.episode.actions for session in shown.sessions] == [[RIGHT], [RIGHT], [LEFT], [RIGHT]]
    assert (shown.owner, described(shown)["level"], described(shown)["chosen"]) == ("window", 5, 2)
    ask(shown, "grid", number=1)
    assert (levels(shown), shown.session.played_by, shown.now.length) == ([5], "person", 1)
    with pytest.raises(ValueError, match="number must be below 1, found 1"):
        ask(shown, "choose", number=1)


def test_several_games_share_the_memory_of_the_last_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_rl.viewer.table.REMEMBERED", 90)
    shown = table()
    for _ in range(30):
        shown.step()
    ask(shown, "seek", at=25)
    ask(shown, "grid", number=9)
    assert (len(shown.session.history), shown.now.length) == (10, 25)
    for _ in range(15):
        shown.step()

    assert [len(session.history) for session in shown.sessions] == [10] * 9
    ask(shown, "seek", at=0)
    assert shown.now.length == 25 + 15 - 9
    assert shown.is_paused


def test_a_grid_goes_on_from_the_moment_that_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_rl.viewer.table.REMEMBERED", 90)
    shown = table()
    for _ in range(30):
        shown.step()
    ask(shown, "seek", at=5)

    ask(shown, "grid", number=9)

    assert (shown.now.length, shown.session.history.is_rewound) == (5, False)


def test_pausing_and_the_agents_choice_are_those_of_all() -> None:
    shown = table()
    shown.is_paused = True
    ask(shown, "grid", number=4)
    ask(shown, "greedy", value=False)
    ask(shown, "at_end", value="same")
    ask(shown, "who", player="random")

    found = {(one.is_paused, one.greedy, one.at_end, one.played_by) for one in shown.sessions}
    assert found == {(True, False, "same", "random")}


def test_the_games_of_a_run_take_turns() -> None:
    shown = table("walk", "run")
    ask(shown, "grid", number=4)

    assert shown.show.title == "ppo on walk+run"
    assert [(one.scene.game, one.now.episode.level) for one in shown.sessions] == [
        ("walk", 3),
        ("run", 3),
        ("walk", 4),
        ("run", 4),
    ]
    assert next(iter(pictures_of(shown))) == "1: walk, level 3, return 0"
    ask(shown, "level", number=20)
    assert levels(shown) == [20, 20, 21, 21]


def test_one_of_several_games_is_shown_and_its_link_brings_it_back() -> None:
    shown = table("walk", "run")
    ask(shown, "level", number=5)
    ask(shown, "game", value="run")
    assert (described(shown)["game"], described(shown)["level"], len(shown.sessions)) == ("run", 5, 1)
    shown.step()
    link = ask(shown, "link")
    ask(shown, "game", value="walk")
    ask(shown, "replay", **{key: link[key] for key in ("game", "level", "actions")})

    assert (described(shown)["game"], link["level"], shown.session.played_by) == ("run", 5, "replay")
    with pytest.raises(ValueError, match="game must be one of walk, run, found x"):
        ask(shown, "game", value="x")


def test_an_episode_of_test_is_played_again_and_told_to_be_the_same() -> None:
    shown = table(episodes=[recorded()])
    assert ask(shown, "episodes")["rows"] == [[0, "walk", "all", None, 10.0, LENGTH]]
    ask(shown, "episode", number=0)
    assert (column(shown.now.frame), described(shown)["recorded"], described(shown)["outcome"]) == (9, 0, None)
    for _ in range(LENGTH):
        shown.step()

    assert shown.now.episode.actions == RECORDED
    assert described(shown)["outcome"] == "As it was recorded"
    assert (shown.is_paused, shown.session.played_by, described(shown)["level"]) == (True, "agent", None)
    shown.step()
    assert levels(shown) == [3]


@pytest.mark.parametrize("other", [recorded(value=9.0), recorded(actions=RECORDED[:7])], ids=["return", "length"])
def test_an_episode_that_comes_out_otherwise_is_told(other: Recorded) -> None:
    shown = table(episodes=[other])
    ask(shown, "episode", number=0)
    for _ in range(len(other.actions)):
        shown.step()

    steps = len(other.actions)
    assert described(shown)["outcome"] == (
        f"Another episode was recorded, of return {other.episode_return:g} in {steps} steps: the games have changed"
    )


def test_a_person_who_takes_over_in_an_episode_of_test_is_not_told_that_it_differs() -> None:
    shown = table(episodes=[recorded()])
    ask(shown, "episode", number=0)
    shown.step()
    ask(shown, "who", player="person")
    for _ in range(LENGTH - 1):
        shown.step()

    assert shown.now.is_over
    assert described(shown)["outcome"] is None


def test_an_episode_of_test_begins_again_where_it_began() -> None:
    shown = table(episodes=[recorded()])
    ask(shown, "episode", number=0)
    shown.step()
    ask(shown, "restart")
    shown.step()
    assert shown.now.episode.actions == [LEFT]
    ask(shown, "who", player="agent")
    shown.step()
    ask(shown, "restart")
    assert (column(shown.now.frame), described(shown)["recorded"]) == (9, 0)
    shown.step()
    assert shown.now.episode.actions == [RIGHT]


def test_going_back_into_an_episode_of_test() -> None:
    shown = table(episodes=[recorded()])
    ask(shown, "episode", number=0)
    for _ in range(5):
        shown.step()
    ask(shown, "level", number=4)
    ask(shown, "seek", at=3)
    shown.step()

    assert (column(shown.now.frame), described(shown)["recorded"]) == (9 - 1, 0)


def test_a_link_to_an_episode_of_test_brings_back_its_beginning_and_the_actions() -> None:
    shown = table(episodes=[recorded(level=9)])
    ask(shown, "episode", number=0)
    for _ in range(3):
        shown.step()
    link = ask(shown, "link")
    assert link == {"type": "link", "game": "walk", "episode": 0, "actions": encoded_actions(RECORDED[:3])}
    ask(shown, "level", number=4)
    ask(shown, "replay_episode", number=0, actions=link["actions"])
    for _ in range(3):
        shown.step()

    assert (shown.now.episode.actions, shown.is_paused, column(shown.now.frame)) == (RECORDED[:3], True, 7)


@pytest.mark.parametrize(("level", "actions"), [(3, [9]), (2**31, [])])
def test_a_refused_link_closes_no_game(level: int, actions: list[int]) -> None:
    shown = table()
    ask(shown, "grid", number=4)

    with pytest.raises(ValueError, match="found"):
        ask(shown, "replay", game="walk", level=level, actions=encoded_actions(actions))

    assert len(shown.sessions) == 4


@pytest.mark.parametrize(
    ("do", "options", "told"),
    [
        ("episode", {"number": 0}, "number must be of an episode of test, of which there are none here, found 0"),
        ("real_frame", {}, "the real frames of this run are not kept"),
        ("temperature", {"value": "1"}, "temperature is a world model's, which there is none of, found 1.0"),
        ("latent", {"dimension": 1, "value": "0"}, "dimension must be one of an autoencoder's"),
        ("hold", {"action": 9}, "action must be below 4, found 9"),
        (
            "replay",
            {"game": "walk", "level": 3, "actions": encoded_actions([4])},
            "actions must be from 0 to 3, found 4",
        ),
    ],
)
def test_what_cannot_be_done_is_told_in_one_line(do: str, options: dict[str, Any], told: str) -> None:
    shown = table()

    with pytest.raises(ValueError, match=told) as refusal:
        ask(shown, do, **options)

    assert "\n" not in str(refusal.value)
    shown.step()
    assert shown.now.length == 1
