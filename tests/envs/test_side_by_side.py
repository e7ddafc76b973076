from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lightning_rl.distributed.running_moments import RunningMoments
from lightning_rl.envs.normalize import ReturnScaling
from lightning_rl.envs.side_by_side import SideBySide, build_side_by_side, with_statistics
from lightning_rl.errors import UsageError
from lightning_rl.protocols import ResumableVectorEnv
from tests.support.toys import CountingVectorEnv

SHAPE = (4, 4, 3)
SHORT, LONG = 2, 5  # steps of an episode


def counting(num_envs: int, length: int, **options: Any) -> CountingVectorEnv:
    return CountingVectorEnv(num_envs, [length], obs_shape=SHAPE, **{"num_actions": 7} | options)


def both() -> SideBySide:
    """Two environments of one game, and one of another."""
    return SideBySide({"short": counting(2, SHORT), "long": counting(1, LONG)})


def actions(*chosen: int) -> NDArray[np.int64]:
    return np.array(chosen, dtype=np.int64)


def test_rows_are_those_of_the_games_in_their_order() -> None:
    env, short, long = both(), counting(2, SHORT), counting(1, LONG)
    obs, info = env.reset()
    assert obs.shape == env.observation_space.shape == (3, *SHAPE)
    assert info["level_seed"].tolist() == [0, 0, 0]

    for step in range(LONG + 1):
        chosen = actions(step % 7, 1, 2)
        together = env.step(chosen)
        alone = short.step(chosen[:2]), long.step(chosen[2:])
        for column, parts in zip(together[:4], zip(*(each[:4] for each in alone), strict=True), strict=True):
            np.testing.assert_array_equal(column, np.concatenate(parts))
        np.testing.assert_array_equal(
            together[4]["level_complete"], np.concatenate([each[4]["level_complete"] for each in alone])
        )
    assert env.rows == {"short": slice(0, 2), "long": slice(2, 3)}


def test_episodes_are_counted_per_game_and_averaged_over_games_once_all_have_some() -> None:
    env = both()
    env.reset()

    for _ in range(SHORT):
        env.step(actions(0, 4, 0))
    early = env.metrics()
    for _ in range(LONG - SHORT):
        env.step(actions(0, 4, 0))

    # a step earns 100 times the frame's number and the action
    assert early == {"episode/return/short": (100 + 108) / 2, "episode/length/short": SHORT}
    found = env.metrics()
    assert (found["episode/return/short"], found["episode/return/long"]) == (104, 100 * (1 + 2 + 3 + 4))
    assert found["episode/return"] == (104 + 1000) / 2
    assert found["episode/length"] == (SHORT + LONG) / 2


def test_each_game_scales_its_rewards_by_its_own_returns() -> None:
    env = SideBySide({"short": ReturnScaling(counting(2, SHORT)), "long": ReturnScaling(counting(1, LONG))})
    alone = ReturnScaling(counting(1, LONG))
    env.reset()

    for _ in range(LONG + 2):
        _, together, _, _, info = env.step(actions(0, 4, 3))
        _, own, *_ = alone.step(actions(3))
        assert together[2] == own[0]
        assert info["raw_rewards"][2] != together[2]


def test_ranks_agree_on_the_statistics_of_each_game() -> None:
    env = SideBySide({"short": ReturnScaling(counting(2, SHORT)), "long": ReturnScaling(counting(1, LONG))})
    for _ in range(3):
        env.step(actions(0, 4, 3))
    merged: list[RunningMoments] = []

    env.sync_statistics(lambda own: merged.append(own) or own)  # type: ignore[func-returns-value]  # None, hence `or`

    assert [moments[2] for moments in merged] == [6, 3]


def test_it_goes_on_from_a_state_bit_for_bit() -> None:
    original, other = both(), both()
    for env, steps in ((original, 3), (other, 1)):
        for _ in range(steps):
            env.step(actions(0, 4, 0))

    obs = other.set_state(original.get_state())

    np.testing.assert_array_equal(obs, original.reset()[0])
    for _ in range(LONG):
        for one, two in zip(original.step(actions(1, 2, 3))[:4], other.step(actions(1, 2, 3))[:4], strict=True):
            np.testing.assert_array_equal(one, two)
    assert other.metrics() == original.metrics()


@pytest.mark.parametrize("names", [("long", "short"), ("short",), ("short", "other")])
def test_a_state_of_other_games_is_refused(names: tuple[str, ...]) -> None:
    state = SideBySide({name: counting(1, SHORT) for name in names}).get_state()

    with pytest.raises(ValueError, match=f"the state is of {', '.join(names)}, these games are short, long"):
        both().set_state(state)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"num_actions": 4}, r"one with Discrete\(7\) and frames \(4, 4, 3\) and other with Discrete\(4\)"),
        ({"obs_shape": (4, 6, 3)}, r"other with Discrete\(7\) and frames \(4, 6, 3\)"),
    ],
)
def test_games_of_other_actions_or_frames_are_refused(options: dict[str, Any], found: str) -> None:
    sizes: dict[str, Any] = {"obs_shape": SHAPE, "num_actions": 7} | options
    other = CountingVectorEnv(1, [SHORT], **sizes)

    with pytest.raises(UsageError, match=rf"^data\.game must be games of the same actions and frames, found .*{found}"):
        SideBySide({"one": counting(1, SHORT), "other": other})


def test_equal_shares_are_built_and_closed_together() -> None:
    built: list[tuple[int, int]] = []
    ended: list[str] = []

    class Noted(CountingVectorEnv):
        def close_extras(self, **_: Any) -> None:
            ended.append("closed")

    def build(num_envs: int, seed: int) -> ResumableVectorEnv:
        built.append((num_envs, seed))
        return Noted(num_envs, [SHORT], obs_shape=SHAPE, num_actions=7)

    env = build_side_by_side(6, 9, games={"a": build, "b": build, "c": build})
    env.close()

    assert built == [(2, 9)] * 3
    assert ended == ["closed"] * 3
    assert with_statistics(env) is env
