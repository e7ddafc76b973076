from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_rl.data.atari import AtariDataModule
from lightning_rl.data.evaluation_dataset import UniformPolicy
from lightning_rl.types import Episodes
from tests.support.rollouts import assert_same, collected

NUM_STEPS, NUM_ENVS = 7, 2
SMALL: dict[str, Any] = {"game": "breakout", "num_envs": NUM_ENVS, "num_steps": NUM_STEPS, "max_episode_steps": 50}

Build = Callable[..., AtariDataModule]


@pytest.fixture
def build() -> Iterator[Build]:
    built: list[AtariDataModule] = []

    def module(**options: Any) -> AtariDataModule:
        built.append(AtariDataModule(**SMALL | options))
        return built[-1]

    yield module
    for data in built:
        data.teardown("fit")


@pytest.fixture
def fitting(build: Build) -> Build:
    """Builds data modules whose training games have started."""

    def module(**options: Any) -> AtariDataModule:
        data = build(**options)
        data.setup("fit")
        return data

    return module


@pytest.mark.parametrize(
    ("options", "obs_shape", "num_actions"),
    [
        ({}, (105, 80, 12), 4),
        ({"frame_stack": 1, "full_action_space": True}, (105, 80, 3), 18),
        ({"game": "Freeway", "frame_stack": 2}, (105, 80, 6), 3),
        ({"game": "carnival"}, (107, 80, 12), 6),
    ],
)
def test_shapes_and_actions_are_known_before_the_games_start_and_are_those_of_rollouts(
    options: dict[str, Any], obs_shape: tuple[int, int, int], num_actions: int, build: Build
) -> None:
    data = build(**options)

    assert (data.obs_shape, data.num_actions) == (obs_shape, num_actions)
    data.setup("fit")
    rollout = collected(data)
    assert rollout.obs.shape == (NUM_STEPS + 1, NUM_ENVS, *obs_shape)
    assert rollout.behavior_logits.shape == (NUM_STEPS, NUM_ENVS, num_actions)


def test_a_papers_name_is_the_game(build: Build) -> None:
    assert build(game="MsPacman").game == AtariDataModule.game_named("MsPacman") == "ms_pacman"


def test_frames_move_down_the_stack_as_time_passes(fitting: Build) -> None:
    obs = collected(fitting()).obs

    assert torch.equal(obs[0, ..., :3], obs[0, ..., 9:])
    for step in range(NUM_STEPS):
        assert torch.equal(obs[step + 1, ..., :9], obs[step, ..., 3:])
    assert not torch.equal(obs[-1, ..., :3], obs[-1, ..., 9:])


def test_rewards_are_clipped_unless_told_otherwise(fitting: Build) -> None:
    clipped, raw = (fitting(game="asterix", num_steps=49, reward_clipping=clipping) for clipping in (True, False))

    rewards = collected(raw).rewards

    assert rewards.max() == 50
    assert torch.equal(collected(clipped).rewards, rewards.clamp(-1, 1))
    assert clipped.collector.metrics()["rollout/reward"] == pytest.approx(float(rewards.mean()))


def test_returns_are_reported_unclipped(build: Build) -> None:
    [episodes] = judged(build(game="asterix"))

    assert (episodes.level_set, episodes.lengths.tolist(), episodes.level_complete) == (
        "full_distribution",
        [50, 50],
        None,
    )
    assert episodes.returns.max() >= 50


def judged(data: AtariDataModule, **options: Any) -> list[Episodes]:
    policy = UniformPolicy(data.num_actions)
    return [episodes for name in data.level_sets for episodes in data.evaluation(name, policy, num_envs=2, **options)]


def test_there_is_one_level_set_of_all(build: Build) -> None:
    assert build().level_sets == {"full_distribution": (0, 0)}


@pytest.mark.parametrize(("game", "expected"), [("pong", (1 + 20.7) / 35.3), ("tennis", None)])
def test_returns_are_normalised_by_the_humans(game: str, expected: float | None, build: Build) -> None:
    found = build(game=game).normalized_return(1.0)

    assert found == (None if expected is None else pytest.approx(expected))


def test_frames_that_are_watched_are_the_watchers_to_keep(build: Build) -> None:
    seen, copies = [], []

    def watch(obs: Any, _: Any) -> None:
        seen.append(obs)
        copies.append(obs.copy())

    judged(build(), watcher=watch)

    np.testing.assert_array_equal(np.stack(seen), np.stack(copies))


def test_example_frames_are_stacks(build: Build) -> None:
    assert build().example_frames(2).shape == (2, 105, 80, 12)


def test_judging_between_two_rollouts_changes_no_bit_of_the_next(fitting: Build) -> None:
    disturbed, quiet = fitting(sticky_actions=True), fitting(sticky_actions=True)
    assert_same(collected(disturbed), collected(quiet))

    judged(disturbed)

    assert_same(collected(disturbed), collected(quiet))


def test_another_module_goes_on_from_the_state_bit_for_bit(fitting: Build, tmp_path: Path) -> None:
    original, other = (fitting(sticky_actions=True, num_steps=30, seed=seed) for seed in (1, 2))
    collected(original)
    collected(other)

    torch.save(original.state_dict(), tmp_path / "state.pt")
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))

    for _ in range(2):
        assert_same(collected(other), collected(original))
    assert (other.env_steps, other.collector.metrics()) == (original.env_steps, original.collector.metrics())


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("game", "freeway"),
        ("sticky_actions", True),
        ("full_action_space", True),
        ("max_no_ops", 7),
        ("max_episode_steps", 51),
        ("reward_clipping", False),
        ("frame_stack", 3),
        ("num_envs", 3),
    ],
)
def test_a_state_of_other_games_is_refused_before_any_is_built(
    key: str, value: str | int, fitting: Build, build: Build
) -> None:
    state = fitting().state_dict()

    with pytest.raises(ValueError, match=f"checkpoint has {key} {state[key]}, this run {value}"):
        build(**{key: value}).check_state(state)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("game", "coinrun"),
        ("max_no_ops", -1),
        ("max_episode_steps", 0),
        ("frame_stack", 0),
        ("num_envs", 0),
        ("num_steps", 0),
        ("num_actors", NUM_ENVS + 1),
        ("seed", -1),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(option: str, value: float | str, build: Build) -> None:
    with pytest.raises(ValueError, match=rf"{option} .*{value}"):
        build(**{option: value})
