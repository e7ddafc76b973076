from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ale_py import ALEInterface, ALEState, roms
from gymnasium.error import ClosedEnvironmentError
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from lightning_rl.envs.atari import AtariVectorEnv, cartridge
from lightning_rl.envs.atari_games import (
    GAMES,
    RANDOM_AND_HUMAN_RETURNS,
    canonical_game,
    check_options,
    human_normalized,
)
from lightning_rl.types import State

Build = Callable[..., AtariVectorEnv]

LEAP = 130
"""Env steps in which random play loses a game of breakout."""


@pytest.fixture
def build() -> Iterator[Build]:
    """Builds small environments and closes them after the test."""
    built: list[AtariVectorEnv] = []

    def build(game: str = "breakout", **options: Any) -> AtariVectorEnv:
        built.append(AtariVectorEnv(game, **{"num_envs": 2, "seed": 5} | options))
        return built[-1]

    yield build
    for env in built:
        env.close()


def actions_of(num_steps: int, env: AtariVectorEnv, seed: int = 0) -> NDArray[np.int64]:
    num_actions = cartridge(env.get_state()["game"]).actions(full_action_space=False)
    return np.random.default_rng(seed).integers(len(num_actions), size=(num_steps, env.num_envs))


def played(env: AtariVectorEnv, actions: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Everything that came back over `actions`, time first."""
    steps = [env.step(a) for a in actions]
    return {name: np.array([step[i] for step in steps]) for i, name in enumerate(("obs", "rewards", "terminated"))}


def assert_equal(actual: dict[str, NDArray[Any]], expected: dict[str, NDArray[Any]]) -> None:
    for key, value in expected.items():
        np.testing.assert_array_equal(actual[key], value, err_msg=key)


class Reference:
    """One game, from the emulator's frames one by one, by the words of the papers; slow."""

    def __init__(self, game: str, generator: np.random.Generator, *, stickiness: float, max_no_ops: int) -> None:
        self.emulator = ALEInterface()
        self.emulator.setFloat("repeat_action_probability", 0.0)
        self.emulator.loadROM(str(roms.get_rom_path(game)))
        self.actions = self.emulator.getMinimalActionSet()
        self.generator, self.stickiness, self.max_no_ops = generator, stickiness, max_no_ops
        self.early_ends = 0
        self.start()

    def start(self) -> None:
        self.emulator.reset_game()
        self.held = self.actions[0]
        self.frames = [self.emulator.getScreenRGB()] * 2
        for _ in range(int(self.generator.integers(1, self.max_no_ops + 1))):
            self.hold(0)

    def hold(self, action: int) -> int:
        reward, frames = 0, list[NDArray[np.uint8]]()
        while len(frames) < 4 and not self.emulator.game_over():
            if not (self.stickiness and self.generator.uniform() < self.stickiness):
                self.held = self.actions[action]
            reward += self.emulator.act(self.held)
            frames.append(self.emulator.getScreenRGB())
        self.early_ends += len(frames) < 4
        self.frames = frames
        return reward

    def step(self, action: int) -> tuple[NDArray[np.uint8], int, bool]:
        reward, over = self.hold(action), self.emulator.game_over()
        if over:
            self.start()
        return self.obs(), reward, over

    def obs(self) -> NDArray[np.uint8]:
        brightest = np.stack(self.frames[-2:]).max(0).astype(np.float64)
        height, width, _ = brightest.shape
        means = brightest.reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3))
        floors: NDArray[np.uint8] = np.floor(means).astype(np.uint8)
        return floors


@pytest.mark.parametrize("sticky_actions", [False, True])
def test_games_play_as_the_emulator_does_frame_by_frame(sticky_actions: bool, build: Build) -> None:
    env = build(seed=3, sticky_actions=sticky_actions, max_no_ops=4)
    streams = [np.random.default_rng(own) for own in np.random.SeedSequence(3).spawn(2)]
    references = [
        Reference("breakout", stream, stickiness=0.25 if sticky_actions else 0.0, max_no_ops=4) for stream in streams
    ]
    opening = np.stack([reference.obs() for reference in references])
    actions = actions_of(2 * LEAP, env)

    first, outcome = env.reset()[0], played(env, actions)

    steps = [[r.step(int(action)) for r, action in zip(references, row, strict=True)] for row in actions]
    np.testing.assert_array_equal(first, opening)
    for position, key in enumerate(("obs", "rewards", "terminated")):
        np.testing.assert_array_equal(outcome[key], np.array([[step[position] for step in row] for row in steps]))
    assert outcome["terminated"].any()
    assert outcome["rewards"].sum() > 0
    assert sum(reference.early_ends for reference in references) > 0


def test_an_observation_averages_the_brighter_of_the_last_two_frames_and_rounds_down(build: Build) -> None:
    game = build(num_envs=1)._games[0]  # the games' own colours hide how it is rounded
    game._frames[:] = np.random.default_rng(0).integers(256, size=game._frames.shape)
    obs = np.empty((105, 80, 3), dtype=np.uint8)

    game.draw(obs)

    means = game._frames.max(0).astype(np.float64).reshape(105, 2, 80, 2, 3).mean((1, 3))
    np.testing.assert_array_equal(obs, np.floor(means))


def test_arrays_have_the_types_that_the_protocol_promises(build: Build) -> None:
    env = build(num_envs=3)

    first, reset_info = env.reset()
    obs, rewards, terminated, truncated, info = env.step(np.array([0, 1, 2]))

    assert [(str(a.dtype), a.shape) for a in (first, obs)] == [("uint8", (3, 105, 80, 3))] * 2
    assert [str(a.dtype) for a in (rewards, terminated, truncated)] == ["float32", "bool", "bool"]
    assert {a.shape for a in (rewards, terminated, truncated)} == {(3,)}
    assert reset_info.keys() == info.keys() == {"episode_start"}
    assert env.observation_space.contains(obs)
    assert env.action_space.contains(np.array([0, 3, 1]))
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP


@pytest.mark.parametrize(("game", "height"), [("carnival", 107), ("pacman", 125)])
def test_taller_screens_are_shown_whole(game: str, height: int, build: Build) -> None:
    assert build(game).reset()[0].shape == (2, height, 80, 3)


@pytest.mark.parametrize(("game", "number"), [("breakout", 4), ("freeway", 3)])
def test_the_actions_are_those_that_the_game_distinguishes_or_all(game: str, number: int, build: Build) -> None:
    env, full = build(game), build(game, full_action_space=True)

    assert (env.action_space.nvec.tolist(), full.action_space.nvec.tolist()) == ([number] * 2, [18] * 2)  # type: ignore[attr-defined]
    full.step(np.array([17, 0]))


def test_the_numbers_of_the_minimal_actions_are_the_full_sets(build: Build) -> None:
    minimal, full = build("freeway", max_no_ops=1), build("freeway", max_no_ops=1, full_action_space=True)
    up, down = 1, 2

    ups, downs = (np.full((30, 2), action) for action in (up, down))

    assert_equal(played(minimal, ups), played(full, np.full((30, 2), 2)))  # ALE's PLAYER_A_UP
    assert_equal(played(minimal, downs), played(full, np.full((30, 2), 5)))  # and PLAYER_A_DOWN


def test_frames_already_returned_do_not_change_under_later_steps(build: Build) -> None:
    env = build()
    obs, rewards, terminated, *_ = env.step(np.array([1, 1]))
    kept = [a.copy() for a in (obs, rewards, terminated)]

    played(env, actions_of(20, env))

    for now, then in zip((obs, rewards, terminated), kept, strict=True):
        np.testing.assert_array_equal(now, then)


def test_without_copies_every_observation_is_the_one_array(build: Build) -> None:
    env, copying = build(copy=False), build()
    obs, _ = env.reset()
    before = obs.copy()

    for actions in actions_of(20, env):
        step, expected = env.step(actions), copying.step(actions)
        assert np.shares_memory(step[0], obs)
        np.testing.assert_array_equal(step[0], expected[0])

    assert not np.array_equal(obs, before)


def test_reset_shows_the_present_and_restarts_nothing(build: Build) -> None:
    env, undisturbed = build(), build()
    obs = played(env, actions_of(20, env))["obs"][-1]
    played(undisturbed, actions_of(20, env))

    np.testing.assert_array_equal(env.reset()[0], obs)

    assert_equal(played(env, actions_of(20, env)), played(undisturbed, actions_of(20, env)))


@pytest.mark.parametrize("arguments", [{"seed": 1}, {"options": {"lives": 2}}])
def test_reset_takes_no_seed_and_no_options(arguments: dict[str, Any], build: Build) -> None:
    with pytest.raises(ValueError, match="when it is built"):
        build().reset(**arguments)


def no_ops(env: AtariVectorEnv) -> list[int]:
    """Env steps since each emulator was reset."""
    saved = (ALEState(game.numpy().tobytes()) for game in env.get_state()["games"])
    frames = [state.getEpisodeFrameNumber() for state in saved]
    assert all(number % 4 == 0 for number in frames)
    return [number // 4 for number in frames]


def test_an_episode_opens_with_one_to_so_many_no_ops(build: Build) -> None:
    env = build(max_no_ops=3, max_episode_steps=1)

    opened = []
    for _ in range(20):
        opened += no_ops(env)
        env.step(np.array([1, 1]))

    assert set(opened) == {1, 2, 3}


def test_there_may_be_no_no_ops(build: Build) -> None:
    assert no_ops(build(max_no_ops=0)) == [0, 0]


def test_an_episode_opens_with_the_joystick_at_rest(build: Build) -> None:
    env = build(max_no_ops=0, max_episode_steps=2, sticky_actions=True)

    held = []
    for _ in range(4):
        env.step(np.array([1, 1]))
        held.append(env.get_state()["joysticks"])

    assert held == [[1, 1], [0, 0], [1, 1], [0, 0]]


def test_running_out_of_time_is_terminated_and_never_truncated(build: Build) -> None:
    env = build(max_episode_steps=5)

    steps = [env.step(np.array([0, 0])) for _ in range(12)]

    assert np.flatnonzero([step[2][1] for step in steps]).tolist() == [4, 9]
    assert not np.array([step[3] for step in steps]).any()
    assert max(no_ops(env)) <= 8 + 2  # steps since the second time limit


def test_the_time_is_an_episodes_own(build: Build) -> None:
    env = build(max_episode_steps=LEAP + 70)

    ends = np.flatnonzero(played(env, actions_of(3 * LEAP, env))["terminated"][:, 0])

    assert np.diff([-1, *ends]).max() <= LEAP + 70
    assert np.diff([-1, *ends]).min() < LEAP + 70  # one was lost, and did not shorten the next one's time


def test_the_same_seed_gives_the_same_bits_and_another_does_not(build: Build) -> None:
    one, same, other = (build(seed=seed, sticky_actions=True) for seed in (1, 1, 2))
    actions = actions_of(40, one)

    expected = played(one, actions)

    assert_equal(played(same, actions), expected)
    assert not np.array_equal(played(other, actions)["obs"], expected["obs"])


def test_each_game_has_a_random_stream_of_its_own(build: Build) -> None:
    env = build(sticky_actions=True)

    obs = played(env, np.repeat(actions_of(40, env)[:, :1], 2, axis=1))["obs"]

    assert not np.array_equal(obs[:, 0], obs[:, 1])


def test_a_game_played_with_a_used_emulator_is_the_one_played_with_a_new_one(build: Build) -> None:
    used = build("seaquest", num_envs=1)
    actions = actions_of(150, used)
    first, state = played(used, actions), used.get_state()
    used.close()

    other = build("seaquest", num_envs=1)

    assert_equal(played(other, actions), first)
    assert all(map(torch.equal, other.get_state()["games"], state["games"]))


def through_a_file(state: State, folder: Path) -> State:
    torch.save(state, folder / "state.pt")
    loaded: State = torch.load(folder / "state.pt", weights_only=True)
    return loaded


@pytest.mark.parametrize(("game", "sticky_actions"), [("breakout", False), ("breakout", True), ("ms_pacman", True)])
def test_a_state_taken_mid_episode_continues_bit_for_bit_in_another_environment(
    game: str, sticky_actions: bool, build: Build, tmp_path: Path
) -> None:
    options = {"sticky_actions": sticky_actions, "max_episode_steps": 90}
    original, other = build(game, seed=1, **options), build(game, seed=2, **options)
    obs = played(original, actions_of(57, original))["obs"][-1]
    played(other, actions_of(13, other, seed=1))

    restored = other.set_state(through_a_file(original.get_state(), tmp_path))

    np.testing.assert_array_equal(restored, obs)
    actions = actions_of(70, original, seed=2)
    expected = played(original, actions)
    assert_equal(played(other, actions), expected)
    assert expected["terminated"].sum() > 1


def test_a_sticky_joystick_is_restored_where_it_was(build: Build) -> None:
    original, other = build(sticky_actions=True, seed=1), build(sticky_actions=True, seed=2)
    forth, back = np.full((1, 2), 2), np.full((1, 2), 3)

    for _ in range(30):  # the first frame after the state is stuck with probability 1/4
        played(original, forth)
        played(other, back)
        other.set_state(original.get_state())
        assert_equal(played(other, back), played(original, back))


def test_a_state_is_a_copy_that_later_steps_leave_alone(build: Build) -> None:
    env = build()
    state = env.get_state()
    outcome = played(env, actions_of(30, env))

    env.set_state(state)

    assert_equal(played(env, actions_of(30, env)), outcome)


@pytest.mark.parametrize(
    ("game", "options", "named"),
    [
        ("pong", {}, "game 'breakout'.*'pong'"),
        ("breakout", {"sticky_actions": True}, "sticky_actions False"),
        ("breakout", {"full_action_space": True}, "full_action_space False"),
        ("breakout", {"max_no_ops": 7}, "max_no_ops 8"),
        ("breakout", {"max_episode_steps": 7}, "max_episode_steps 27000"),
        ("breakout", {"num_envs": 1}, "num_envs 2"),
    ],
)
def test_the_state_of_another_environment_is_refused(
    game: str, options: dict[str, Any], named: str, build: Build
) -> None:
    state = build().get_state()

    with pytest.raises(ValueError, match=named):
        build(game, **options).set_state(state)


def test_a_damaged_state_is_refused_and_the_games_go_on(build: Build) -> None:
    env, undisturbed = build(), build()
    state = build(seed=6).get_state()
    state["games"][1][1000] ^= 1

    with pytest.raises(ValueError, match="game 1 of the state is damaged"):
        env.set_state(state)
    with pytest.raises(ValueError, match="differs in steps"):
        env.set_state({key: value for key, value in state.items() if key != "steps"})

    assert_equal(played(env, actions_of(20, env)), played(undisturbed, actions_of(20, env)))


@pytest.mark.parametrize(
    "actions",
    [np.array([0, 4]), np.array([-1, 0]), np.array([0]), np.array([0, 0, 0])],
    ids=["too high", "negative", "too few", "too many"],
)
def test_wrong_actions_are_refused_before_any_game_moves(actions: NDArray[np.int64], build: Build) -> None:
    env, twin = build(), build()

    with pytest.raises(ValueError, match="actions must be"):
        env.step(actions)

    assert_equal(played(env, actions_of(5, env)), played(twin, actions_of(5, twin)))


@pytest.mark.parametrize(
    ("game", "options", "message"),
    [
        ("pogn", {}, r"game must be an Atari game, found 'pogn'; did you mean pong or pooyan\?"),
        ("zzz", {}, "found 'zzz'; allowed: adventure, .*zaxxon"),
        ("joust", {}, "game must be an Atari game, found 'joust'"),
        ("pong", {"num_envs": 0}, "num_envs must be an integer from 1 to 2147483647, found 0"),
        ("pong", {"max_no_ops": -1}, "max_no_ops must be an integer from 0"),
        ("pong", {"max_episode_steps": 0}, "max_episode_steps must be an integer from 1"),
        ("pong", {"seed": -1}, "seed must be an integer from 0"),
    ],
)
def test_a_wrong_option_is_one_sentence_that_names_it(game: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as from_function:
        check_options(game, **options)
    with pytest.raises(ValueError, match=message) as from_class:
        AtariVectorEnv(game, **{"num_envs": 1, "seed": 0} | options)

    assert str(from_class.value) == str(from_function.value)


@pytest.mark.parametrize(
    ("name", "game"),
    [
        ("pong", "pong"),
        ("MsPacman", "ms_pacman"),
        ("UpNDown", "up_n_down"),
        ("KungFuMaster", "kung_fu_master"),
        ("ChopperCommand", "chopper_command"),
        ("TicTacToe3D", "tic_tac_toe_3d"),
    ],
)
def test_games_are_known_by_the_papers_names_too(name: str, game: str) -> None:
    assert canonical_game(name) == game


def test_a_papers_name_builds_the_game(build: Build) -> None:
    assert build("MsPacman").get_state()["game"] == "ms_pacman"


def test_the_26_games_are_among_all_that_one_can_play_alone() -> None:
    playable = {game for game in roms.get_all_rom_ids() if ALEInterface.isSupportedROM(str(roms.get_rom_path(game)))}

    assert set(GAMES) == playable
    assert len(RANDOM_AND_HUMAN_RETURNS) == 26
    assert RANDOM_AND_HUMAN_RETURNS.keys() <= playable


def test_human_normalized_return_is_zero_at_random_play_and_one_at_the_humans() -> None:
    scores = [
        (human_normalized(game, low), human_normalized(game, high))
        for game, (low, high) in (RANDOM_AND_HUMAN_RETURNS.items())
    ]

    assert scores == [(0, 1)] * 26
    assert human_normalized("pong", 12.8) == pytest.approx(0.949, abs=5e-4)  # SimPLe's
    assert human_normalized("krull", 2204.8) == pytest.approx(0.568, abs=5e-4)
    assert human_normalized("tennis", 1.0) is None


def test_building_and_playing_a_game_prints_nothing(build: Build, capfd: pytest.CaptureFixture[str]) -> None:
    build("tennis", num_envs=1).step(np.array([0]))

    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_an_episode_without_no_ops_shows_its_own_first_frame_only(build: Build) -> None:
    env = build(game="pong", num_envs=1, max_no_ops=0, max_episode_steps=30)
    opening = env.reset()[0].copy()

    for step in range(30):
        obs, _, terminated, _, _ = env.step(np.array([2 + step % 2]))

    assert terminated.all()
    np.testing.assert_array_equal(obs, opening)


@pytest.mark.parametrize("use", ["reset", "step", "get_state", "set_state"])
def test_a_closed_environment_is_refused_and_leaves_the_emulator_to_others(use: str, build: Build) -> None:
    closed = build(num_envs=1)
    state = closed.get_state()
    closed.close()
    other, twin = build(num_envs=1), build(num_envs=1)
    arguments = {"step": (np.array([0]),), "set_state": (state,)}.get(use, ())

    with pytest.raises(ClosedEnvironmentError, match="AtariVectorEnv is closed"):
        getattr(closed, use)(*arguments)

    actions = actions_of(10, other)
    assert_equal(played(other, actions), played(twin, actions))


def test_closing_twice_is_closing_once(build: Build) -> None:
    env = build(num_envs=1)
    env.close()
    env.close()

    one, other = build(num_envs=1), build(num_envs=1)  # were the emulator returned twice, both would play with it

    actions = actions_of(20, one)
    played(one, actions_of(20, one, seed=1))
    assert_equal(played(other, actions), played(build(num_envs=1), actions))
