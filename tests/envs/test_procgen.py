import gc
import subprocess
import sys
import weakref
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from lightning_rl.envs.procgen import ProcgenVectorEnv, _GymnasiumsGames, installed_binding
from lightning_rl.envs.procgen_games import (
    DISTRIBUTION_MODES,
    GAMES,
    RETURN_RANGES,
    REWARDS,
    check_options,
    normalized_return,
)
from lightning_rl.errors import UsageError
from lightning_rl.types import State

pytestmark = pytest.mark.skipif(
    find_spec("procgen") is None and find_spec("procgen_gym") is None, reason="procgen has no wheel for this platform"
)
gym3s = pytest.mark.skipif(find_spec("procgen") is None, reason="this Python has the other binding")

RIGHT, JUMP_RIGHT = 7, 8
"""Holding the second solves many coinrun levels, the first none."""

Build = Callable[..., ProcgenVectorEnv]
Option = str | int | bool


@pytest.fixture
def build() -> Iterator[Build]:
    """Builds small environments and closes them after the test."""
    built: list[ProcgenVectorEnv] = []

    def build(game: str = "coinrun", **options: Option) -> ProcgenVectorEnv:
        arguments: dict[str, Any] = {"num_envs": 2, "seed": 5, "num_threads": 0} | options
        built.append(ProcgenVectorEnv(game, **arguments))
        return built[-1]

    yield build
    for env in built:
        env.close()


def actions_of(num_steps: int, num_envs: int = 2, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(15, size=(num_steps, num_envs))


def played(env: ProcgenVectorEnv, actions: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Everything that came back over `actions`, time first."""
    steps = [env.step(a) for a in actions]
    outcome = {name: np.array([step[i] for step in steps]) for i, name in enumerate(("obs", "rewards", "terminated"))}
    return outcome | {key: np.array([step[4][key] for step in steps]) for key in steps[0][4]}


def assert_equal(actual: dict[str, NDArray[Any]], expected: dict[str, NDArray[Any]]) -> None:
    for key, value in expected.items():
        np.testing.assert_array_equal(actual[key], value, err_msg=key)


@gym3s
@pytest.mark.parametrize("distribution_mode", ["easy", "hard"])
@pytest.mark.parametrize("game", GAMES)
def test_every_game_plays_as_procgen_itself_does(game: str, distribution_mode: str, build: Build) -> None:
    options: dict[str, Any] = {"distribution_mode": distribution_mode, "num_levels": 30, "start_level": 70}
    env = build(game, **options, seed=3)
    from procgen import ProcgenGym3Env  # after build, which keeps gym's notice away

    raw = ProcgenGym3Env(2, game, **options, rand_seed=3, num_threads=0)
    np.testing.assert_array_equal(env.reset()[0], raw.observe()[1]["rgb"])
    for actions in actions_of(200):
        obs, rewards, terminated, truncated, info = env.step(actions)
        raw.act(actions)
        raw_rewards, raw_obs, first = raw.observe()

        np.testing.assert_array_equal(obs, raw_obs["rgb"])
        np.testing.assert_array_equal(rewards, raw_rewards)
        np.testing.assert_array_equal(terminated, first)
        assert not truncated.any()
        raw_info = raw.get_info()
        assert info["level_seed"].tolist() == [row["level_seed"] for row in raw_info]
        assert info["prev_level_seed"].tolist() == [row["prev_level_seed"] for row in raw_info]
        assert info["level_complete"].tolist() == [bool(row["prev_level_complete"]) for row in raw_info]
    raw.close()


def test_arrays_have_the_types_that_the_protocol_promises(build: Build) -> None:
    env = build(num_envs=3)

    first, reset_info = env.reset()
    obs, rewards, terminated, truncated, info = env.step(np.array([4, 4, 4]))

    assert [(str(a.dtype), a.shape) for a in (first, obs)] == [("uint8", (3, 64, 64, 3))] * 2
    assert [str(a.dtype) for a in (rewards, terminated, truncated)] == ["float32", "bool", "bool"]
    assert {key: str(a.dtype) for key, a in info.items()} == {
        "level_seed": "int64",
        "prev_level_seed": "int64",
        "level_complete": "bool",
    }
    assert {a.shape for a in (rewards, terminated, truncated, *info.values(), reset_info["level_seed"])} == {(3,)}
    assert env.observation_space.contains(obs)
    assert env.action_space.contains(np.array([0, 14, 4]))
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP


def test_frames_already_returned_do_not_change_under_later_steps(build: Build) -> None:
    env = build("starpilot")
    obs, rewards, terminated, _, info = env.step(np.array([4, 4]))
    kept = [a.copy() for a in (obs, rewards, terminated, *info.values())]

    played(env, actions_of(150))

    for now, then in zip((obs, rewards, terminated, *info.values()), kept, strict=True):
        np.testing.assert_array_equal(now, then)


def test_without_copies_every_observation_is_the_one_array_that_the_games_paint_into(build: Build) -> None:
    env, copying = build("starpilot", copy=False), build("starpilot")
    obs, _ = env.reset()
    before = obs.copy()
    _, rewards, terminated, _, info = env.step(np.array([4, 4]))
    copying.step(np.array([4, 4]))
    kept = [a.copy() for a in (rewards, terminated, *info.values())]

    for actions in actions_of(150):
        step, expected = env.step(actions), copying.step(actions)
        assert np.shares_memory(step[0], obs)
        np.testing.assert_array_equal(step[0], expected[0])

    assert not np.array_equal(obs, before)
    for now, then in zip((rewards, terminated, *info.values()), kept, strict=True):
        np.testing.assert_array_equal(now, then)


def test_reset_shows_the_present_and_restarts_nothing(build: Build) -> None:
    env = build()
    obs = played(env, actions_of(20))["obs"][-1]

    again, info = env.reset()

    np.testing.assert_array_equal(again, obs)
    np.testing.assert_array_equal(info["level_seed"], env.step(np.array([4, 4]))[4]["prev_level_seed"])


@pytest.mark.parametrize("arguments", [{"seed": 1}, {"options": {"level": 2}}])
def test_reset_takes_no_seed_and_no_options(arguments: dict[str, Any], build: Build) -> None:
    with pytest.raises(ValueError, match="when it is built"):
        build().reset(**arguments)


def test_an_episode_ends_where_the_level_changes_and_counts_as_solved_when_it_was(build: Build) -> None:
    env = build(num_envs=8, num_levels=1000)

    outcome = played(env, np.full((200, 8), JUMP_RIGHT))

    solved, terminated = outcome["level_complete"], outcome["terminated"]
    assert solved.sum() > 3
    assert (terminated & ~solved).sum() > 3
    np.testing.assert_array_equal(outcome["rewards"], 10.0 * solved)  # coinrun pays for nothing else
    assert not (solved & ~terminated).any()
    changed = outcome["level_seed"] != outcome["prev_level_seed"]
    assert (changed <= terminated).all()
    assert changed.sum() >= terminated.sum() - 1  # the same level may be drawn twice


def test_running_out_of_time_is_terminated_and_not_solved(build: Build) -> None:
    env = build("maze", num_levels=1)  # 500 steps, the shortest limit of all games

    outcome = played(env, np.full((500, 2), 4))

    assert np.flatnonzero(outcome["terminated"][:, 0]).tolist() == [499]
    assert not outcome["level_complete"].any()
    assert not outcome["rewards"].any()


@pytest.mark.parametrize("num_threads", [1, 2])
def test_the_same_seed_gives_the_same_bits_on_any_number_of_threads(num_threads: int, build: Build) -> None:
    actions = actions_of(150)

    expected = played(build("starpilot", seed=11), actions)

    assert_equal(played(build("starpilot", seed=11, num_threads=num_threads), actions), expected)


def test_another_seed_gives_other_levels(build: Build) -> None:
    levels = [build(num_envs=4, seed=seed).reset()[1]["level_seed"].tolist() for seed in range(3)]

    assert len({seed for row in levels for seed in row}) == 12


def test_levels_come_from_the_given_range_and_all_of_it(build: Build) -> None:
    env = build("starpilot", num_levels=5, start_level=100)

    levels = played(env, actions_of(1500))["level_seed"]

    assert set(np.unique(levels).tolist()) == {100, 101, 102, 103, 104}


def test_all_levels_ignores_start_level(build: Build) -> None:
    actions = actions_of(100)

    from_zero = played(build("starpilot", num_levels=0, start_level=0), actions)
    from_thousand = played(build("starpilot", num_levels=0, start_level=1000), actions)

    assert_equal(from_thousand, from_zero)


def test_exploration_plays_its_one_level(build: Build) -> None:
    env = build(distribution_mode="exploration")

    assert env.reset()[1]["level_seed"].tolist() == [1949448038] * 2


@pytest.mark.parametrize(
    ("option", "value", "game"),
    [
        ("use_backgrounds", False, "coinrun"),
        ("use_monochrome_assets", True, "coinrun"),
        ("restrict_themes", True, "coinrun"),
        ("use_generated_assets", True, "coinrun"),
        ("center_agent", False, "coinrun"),
        ("paint_vel_info", True, "coinrun"),
        ("distribution_mode", "hard", "coinrun"),
        ("distribution_mode", "extreme", "starpilot"),
        ("distribution_mode", "memory", "maze"),
        ("distribution_mode", "exploration", "maze"),
        ("num_levels", 3, "coinrun"),
        ("seed", 6, "coinrun"),
    ],
)
def test_every_option_reaches_the_frames(option: str, value: Option, game: str, build: Build) -> None:
    actions = actions_of(40)

    default = played(build(game), actions)["obs"]
    altered = played(build(game, **{option: value}), actions)["obs"]

    assert not np.array_equal(default, altered)


def test_start_level_reaches_the_levels(build: Build) -> None:
    assert build(num_levels=1, start_level=7).reset()[1]["level_seed"].tolist() == [7, 7]


def test_sequential_levels_follow_each_other_within_one_episode(build: Build) -> None:
    env = build(num_envs=8, num_levels=1000, use_sequential_levels=True)

    outcome = played(env, np.full((120, 8), JUMP_RIGHT))

    solved = outcome["level_complete"]
    assert solved.sum() > 3
    assert not outcome["terminated"][solved].any()
    np.testing.assert_array_equal(outcome["level_seed"][solved], outcome["prev_level_seed"][solved] + 997)


@pytest.mark.parametrize("game", GAMES)
def test_a_state_taken_mid_episode_continues_bit_for_bit_in_another_environment(game: str, build: Build) -> None:
    original, other = build(game, num_levels=50), build(game, num_levels=50, seed=6, num_threads=2)
    played(original, actions_of(37))
    played(other, actions_of(11, seed=1))
    state = original.get_state()

    obs = other.set_state(state)

    np.testing.assert_array_equal(obs, original.reset()[0])
    np.testing.assert_array_equal(other.reset()[1]["level_seed"], original.reset()[1]["level_seed"])
    actions = actions_of(320, seed=2)
    assert_equal(played(other, actions), played(original, actions))


def test_a_state_continues_bit_for_bit_through_many_episodes(build: Build) -> None:
    original, other = build("starpilot"), build("starpilot", seed=6)
    played(original, actions_of(60))
    other.set_state(original.get_state())

    actions = actions_of(600, seed=2)
    expected = played(original, actions)

    assert expected["terminated"].sum(axis=0).min() >= 3
    assert_equal(played(other, actions), expected)
    assert other.get_state()["crc32"] == original.get_state()["crc32"]


def test_a_state_survives_a_checkpoint_that_may_hold_tensors_only(build: Build, tmp_path: Path) -> None:
    env = build()
    played(env, actions_of(30))
    state = env.get_state()

    torch.save(state, tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    actions = actions_of(50)
    expected = played(env, actions)

    assert env.set_state(loaded).dtype == np.uint8
    assert_equal(played(env, actions), expected)


def test_a_state_is_a_copy_that_later_steps_leave_alone(build: Build) -> None:
    env = build()
    state = env.get_state()

    played(env, actions_of(20))

    assert [zlib.crc32(game.numpy().tobytes()) for game in state["games"]] == state["crc32"]


@pytest.mark.parametrize(
    ("saved_under", "named"),
    [
        ({"game": "ninja"}, "game 'ninja' and this environment has 'coinrun'"),
        ({"distribution_mode": "hard"}, "distribution_mode 'hard' and this environment has 'easy'"),
        ({"num_levels": 10}, "num_levels 10 and this environment has 0"),
        ({"start_level": 10}, "start_level 10 and this environment has 0"),
        ({"use_backgrounds": False}, "use_backgrounds False and this environment has True"),
        ({"use_sequential_levels": True}, "use_sequential_levels True and this environment has False"),
        ({"num_envs": 3}, "num_envs 3 and this environment has 2"),
    ],
)
def test_the_state_of_another_environment_is_refused(saved_under: State, named: str, build: Build) -> None:
    state = build(**saved_under).get_state()

    with pytest.raises(ValueError, match=named):
        build().set_state(state)


def with_games(state: State, games: list[bytes]) -> State:
    """`state` doctored to hold `games`, checksums included."""
    tensors = [torch.frombuffer(bytearray(game), dtype=torch.uint8) for game in games]
    return state | {"games": tensors, "crc32": [zlib.crc32(game) for game in games]}


def bytes_of(state: State) -> list[bytes]:
    return [game.numpy().tobytes() for game in state["games"]]


def truncated(state: State) -> State:
    return state | {"games": [state["games"][0], state["games"][1][:-100]]}


def altered(state: State) -> State:
    games = [game.clone() for game in state["games"]]
    games[1][20_000] += 1
    return state | {"games": games}


def truncated_with_checksum(state: State) -> State:
    return with_games(state, [game[:-100] for game in bytes_of(state)])


def not_a_game(state: State, size: int) -> State:
    return with_games(state, [b"\xff" * size + b"\xfe\xca\xfe\xca"] * 2)


def missing_game(state: State) -> State:
    return state | {"games": state["games"][:1], "crc32": state["crc32"][:1]}


def other_version(state: State) -> State:
    return with_games(state, [b"\x01" + game[1:] for game in bytes_of(state)])


def flagged_as_generated(state: State) -> State:
    flag = 8 + len("coinrun") + 4  # after version, length and name comes paint_vel_info
    return with_games(state, [game[:flag] + b"\x01" + game[flag + 1 :] for game in bytes_of(state)])


def without_checksums(state: State) -> State:
    return {key: value for key, value in state.items() if key != "crc32"}


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (truncated, "game 1 of the state is damaged"),
        (altered, "game 1 of the state is damaged"),
        (truncated_with_checksum, "game 0 of the state is damaged"),
        (partial(not_a_game, size=0), "Procgen did not write these 4 bytes"),
        (partial(not_a_game, size=500), "Procgen did not write these 504 bytes|game 0 of the state holds"),
        (missing_game, r"ProcgenVectorEnv\.games must be a list of 2, found a list of 1"),
        (other_version, "version 1 where this environment plays version 0"),
        (flagged_as_generated, "use_generated_assets 1 where this environment plays use_generated_assets 0"),
        (without_checksums, "this one differs in crc32"),
    ],
)
def test_a_damaged_state_is_refused_and_the_games_go_on(
    damage: Callable[[State], State], named: str, build: Build
) -> None:
    env, twin = build(), build()

    with pytest.raises(ValueError, match=named):
        env.set_state(damage(env.get_state()))

    actions = actions_of(20)
    assert_equal(played(env, actions), played(twin, actions))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"game": "starpilot"}, "game 'starpilot' where this environment plays game 'coinrun'"),
        ({"distribution_mode": "hard"}, "distribution_mode 1 where"),
        ({"num_levels": 10}, "end_level 10 where"),
        ({"num_levels": 10, "start_level": 5}, "first_level 5 where"),
        ({"center_agent": False}, "center_agent 0 where"),
        ({"paint_vel_info": True}, "paint_vel_info 1 where"),
        ({"use_monochrome_assets": True}, "use_monochrome_assets 1 where"),
        ({"restrict_themes": True}, "restrict_themes 1 where"),
        ({"use_backgrounds": False}, "use_backgrounds 0 where"),
        ({"use_sequential_levels": True}, "use_sequential_levels 1 where"),
    ],
)
def test_bytes_of_other_games_under_this_ones_description_are_refused(
    options: dict[str, Any], named: str, build: Build
) -> None:
    env = build()
    foreign = build(**options).get_state()

    with pytest.raises(ValueError, match=named):
        env.set_state(with_games(env.get_state(), bytes_of(foreign)))


def test_games_with_generated_assets_refuse_to_be_saved_and_go_on(build: Build) -> None:
    env, state = build(use_generated_assets=True), build().get_state()

    with pytest.raises(ValueError, match="use_generated_assets must be False where games are saved, found True"):
        env.get_state()
    with pytest.raises(ValueError, match="use_generated_assets must be False where games are saved, found True"):
        env.set_state(state | {"use_generated_assets": True})

    assert env.step(np.array([4, 4]))[0].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"game": "pong"}, r"game must be one of Procgen's, found 'pong'; allowed: bigfish, .*, starpilot$"),
        ({"game": "startpilot"}, r"game must be one of Procgen's, found 'startpilot'; did you mean starpilot\?$"),
        (
            {"distribution_mode": "memory"},
            "distribution_mode of coinrun must be one of easy, hard, exploration, found 'mem",
        ),
        ({"game": "bigfish", "distribution_mode": "extreme"}, "of bigfish must be one of easy, hard, found 'extreme'"),
        ({"num_envs": 0}, "num_envs must be an integer from 1 to 2147483647, found 0"),
        ({"num_levels": -1}, "num_levels must be an integer from 0 to 2147483647, found -1"),
        ({"num_levels": True}, "num_levels must be an integer from 0 to 2147483647, found True"),
        ({"start_level": -5}, "start_level must be an integer from 0 to 2147483647, found -5"),
        ({"seed": 2**31}, "seed must be an integer from 0 to 2147483647, found 2147483648"),
        ({"num_threads": -1}, "num_threads must be an integer from 0"),
        (
            {"start_level": 2**31 - 5, "num_levels": 10},
            r"start_level \+ num_levels must be at most 2147483647, found 2147483643 \+ 10 = 2147483653",
        ),
        (
            {"distribution_mode": "exploration", "num_levels": 200},
            "exploration plays one fixed level, so num_levels and start_level must be 0, found 200 and 0",
        ),
    ],
)
def test_a_wrong_option_is_one_sentence_that_names_it(options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"game": "coinrun", "num_envs": 2, "seed": 0} | options

    with pytest.raises(ValueError, match=message) as from_function:
        check_options(**arguments)
    with pytest.raises(ValueError, match=message) as from_class:
        ProcgenVectorEnv(**arguments)
    assert str(from_function.value) == str(from_class.value)
    assert "\n" not in str(from_class.value)


@pytest.mark.parametrize(("game", "mode"), [(game, mode) for game in GAMES for mode in DISTRIBUTION_MODES[game]])
def test_every_listed_mode_exists(game: str, mode: str, build: Build) -> None:
    assert build(game, num_envs=1, distribution_mode=mode).reset()[0].any()


def test_the_lists_of_games_and_modes_are_procgens_own(build: Build) -> None:
    build()
    known = import_module(f"{installed_binding()}.env")

    assert tuple(known.ENV_NAMES) == GAMES
    assert {mode for modes in DISTRIBUTION_MODES.values() for mode in modes} == set(known.DISTRIBUTION_MODE_DICT)
    explored = set(known.EXPLORATION_LEVEL_SEEDS)
    assert {game for game in GAMES if "exploration" in DISTRIBUTION_MODES[game]} == explored


@pytest.mark.parametrize(
    "actions",
    [np.array([4, 15]), np.array([-1, 4]), np.array([4]), np.array([4, 4, 4])],
    ids=["too high", "restart command", "too few", "too many"],
)
def test_wrong_actions_are_refused_before_any_game_moves(actions: NDArray[np.int64], build: Build) -> None:
    env, twin = build(), build()

    with pytest.raises(ValueError, match="actions must be"):
        env.step(actions)

    assert_equal(played(env, actions_of(5)), played(twin, actions_of(5)))


@pytest.mark.parametrize("name", ["libGL.so.1", "libglib-2.0.so.0", "libgthread-2.0.so.0"])
def test_a_library_that_the_system_lacks_is_named(name: str, build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(asked: str) -> None:
        if asked == name:
            raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr("ctypes.CDLL", load)

    with pytest.raises(UsageError, match=rf"need {name}, which this system lacks; .* apt-get install libgl1"):
        build()


def test_closing_twice_is_closing_once(build: Build) -> None:
    env = build(num_threads=2)
    env.close()
    env.close()
    assert env.closed


@gym3s
def test_an_ended_environment_leaves_nothing_in_memory(build: Build) -> None:
    build("starpilot").close()  # the first one's library stays loaded
    env = build("starpilot")
    library = weakref.ref(env._games._c_lib)  # type: ignore[attr-defined]  # gym3's
    env.close()
    gc.collect()

    assert library() is None
    assert build("starpilot").reset()[0].any()


def test_an_environment_that_was_never_built_can_be_closed() -> None:
    env = ProcgenVectorEnv.__new__(ProcgenVectorEnv)
    with pytest.raises(ValueError, match="pong"):
        ProcgenVectorEnv.__init__(env, "pong", num_envs=1, seed=0)

    env.close()  # as some versions of gymnasium do when the object dies

    assert env.closed


def test_normalized_return_is_zero_at_the_blind_agents_and_one_at_the_best() -> None:
    assert normalized_return("coinrun", "hard", 5.0) == 0
    assert normalized_return("starpilot", "easy", 64.0) == 1
    assert normalized_return("fruitbot", "easy", 15.45) == pytest.approx(0.5)
    assert normalized_return("starpilot", "extreme", 10.0) is None
    assert normalized_return("pong", "easy", 10.0) is None


def test_every_game_has_a_published_range_in_both_common_modes() -> None:
    assert set(RETURN_RANGES) == {(game, mode) for game in GAMES for mode in ("easy", "hard")}
    assert all(low < high for low, high in RETURN_RANGES.values())


PLAY = "from lightning_rl.envs.procgen import *; ProcgenVectorEnv('maze', num_envs=1, seed=0).reset()"
PROGRAMS = {
    "play": ["-X", "dev", "-W", "error", "-c", PLAY],
    "news": [
        "-c",
        "import sys; from lightning_rl.envs.procgen import *;"
        "check_options('coinrun'); print('procgen' in sys.modules);"
        f"import gym_notices.notices as n; n.notices = dict.fromkeys(n.notices, 'a new notice'); {PLAY}",
    ],
}


def test_the_last_coin_of_a_level_and_its_bonus_are_paid_at_once(build: Build) -> None:
    env = build("climber", num_envs=64, copy=False)
    env.reset()

    seen = np.stack([env.step(actions)[1] for actions in actions_of(70, 64)])

    assert sorted(set(seen.flatten().tolist())) == [0.0, 1.0, 11.0]
    assert set(REWARDS["climber"]) == {0.0, 1.0, 11.0}


@pytest.fixture(scope="module")
def finished() -> dict[str, tuple[int, str, str]]:
    """Exit status and what was printed to both streams, of programs that ran at the same time."""
    running = {
        name: subprocess.Popen([sys.executable, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for name, args in PROGRAMS.items()
    }
    printed = {name: process.communicate(timeout=120) for name, process in running.items()}
    return {name: (process.returncode, *printed[name]) for name, process in running.items()}


@pytest.mark.slow
def test_building_the_games_prints_nothing_and_warns_of_nothing(finished: dict[str, tuple[int, str, str]]) -> None:
    assert finished["play"] == (0, "", "")


@pytest.mark.slow
@gym3s
def test_a_notice_that_is_not_the_known_one_is_printed(finished: dict[str, tuple[int, str, str]]) -> None:
    status, _, told = finished["news"]
    assert (status, told) == (0, "a new notice\n")


@pytest.mark.slow
@gym3s
def test_options_are_checked_without_importing_procgen(finished: dict[str, tuple[int, str, str]]) -> None:
    assert finished["news"][1] == "False\n"


def test_without_a_binding_one_line_says_what_there_is(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_rl.envs.procgen.find_spec", lambda _name: None)
    with pytest.raises(UsageError, match=r"data: Procgen's games are for Linux on x86-64 .* --data AtariDataModule"):
        build()


class LibraryOfThree:
    """The C++ library below procgen-gym, of three games that count."""

    def __init__(self) -> None:
        self.frames = np.zeros((3, 64, 64, 3), np.uint8)
        self.firsts = np.zeros(3, np.uint8)
        self.count = 0

    def act(self, actions: NDArray[np.int64]) -> None:
        self.count += int(actions.sum())

    def call_c_func(self, name: str, *args: Any) -> int:
        if name == "get_state":
            index, buffer, size = args
            state = f"{index} {self.count}".encode()
            assert size == len(buffer)
            buffer[: len(state)] = state
            return len(state)
        if name == "set_state":
            index, state, length = args
            assert state[:length] == f"{index} {int(state.split()[1])}".encode()
            self.count = int(state.split()[1])
        else:
            assert (name, args) == ("libenv_observe", ())
            self.frames[:] = self.count
            self.firsts[:] = self.count % 2
        return 0

    def get_info_bufs(self) -> dict[str, NDArray[Any]]:
        return {"level_seed": np.arange(3, dtype=np.int32)}

    def get_ob_bufs(self) -> dict[str, NDArray[Any]]:
        return {"rgb": self.frames}

    def get_reward_buf(self) -> NDArray[Any]:
        return np.ones(3, np.float32)

    def get_first_buf(self) -> NDArray[Any]:
        return self.firsts


def test_the_other_bindings_games_are_used_without_copies_and_saved_as_bytes() -> None:
    library = LibraryOfThree()
    games = _GymnasiumsGames(SimpleNamespace(_clib=library, num_envs=3, close=lambda: None))
    games.act(np.array([1, 2, 4]))

    _, obs, ended = games.observe()

    assert obs["rgb"] is library.frames
    assert library.frames.max() == 7
    assert (str(ended.dtype), ended.tolist()) == ("bool", [True, True, True])
    states = games.callmethod("get_state")
    assert states == [b"0 7", b"1 7", b"2 7"]
    games.act(np.array([1, 1, 1]))
    games.callmethod("set_state", states)
    assert library.count == 7


@pytest.mark.skipif(find_spec("procgen_gym") is None, reason="that binding is for later Pythons")
def test_frames_are_those_of_the_library(build: Build) -> None:
    env = build(copy=False)
    first, _ = env.reset()
    assert np.shares_memory(first, env.step(np.array([4, 4]))[0])
