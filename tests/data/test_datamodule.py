from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningModule, Trainer

from lightning_rl.data.evaluation_dataset import UniformPolicy
from lightning_rl.data.procgen import ProcgenDataModule
from lightning_rl.data.rollout_dataset import RolloutDataset
from lightning_rl.envs.procgen import ProcgenVectorEnv
from lightning_rl.protocols import Policy, Source
from lightning_rl.types import ActorOutput, Episodes
from tests.support.rollouts import assert_same, collected

NUM_STEPS, NUM_ENVS = 7, 2
SMALL: dict[str, Any] = {"num_envs": NUM_ENVS, "num_steps": NUM_STEPS, "num_levels": 50, "start_level": 10}

Build = Callable[..., ProcgenDataModule]


class RandomAgent(LightningModule):
    """Acts at random and keeps the episodes that it is judged on."""

    greedy = False
    on_policy = True
    uses_replay = False

    def __init__(self) -> None:
        super().__init__()
        self.policy = UniformPolicy(ProcgenDataModule.num_actions)
        self.judged: list[Episodes] = []

    def act(
        self, obs: NDArray[Any], generator: torch.Generator, *, recurrent_inputs: Any = None, greedy: bool = False
    ) -> ActorOutput:
        return self.policy.act(obs, generator, greedy=greedy)

    def yardsticks(self, game: str) -> dict[str, Policy]:
        return {}

    def check_finite(self) -> None:
        pass

    def batches_per_iteration(self, num_steps: int, num_envs: int) -> int:
        return num_steps * num_envs // 7

    def batches(self, source: Source) -> Iterator[Any]:
        for _ in range(2):
            yield source.collect(self)

    def validation_step(self, episodes: Episodes, _batch_idx: int, dataloader_idx: int = 0) -> None:
        self.judged.append(episodes)

    test_step = validation_step

    def predict_step(self, episodes: Episodes, batch_idx: int) -> Episodes:
        self.validation_step(episodes, batch_idx)
        return episodes


@pytest.fixture
def build() -> Iterator[Build]:
    built: list[ProcgenDataModule] = []

    def module(**options: Any) -> ProcgenDataModule:
        built.append(ProcgenDataModule(**SMALL | options))
        return built[-1]

    yield module
    for data in built:
        data.teardown("fit")


@pytest.fixture
def fitting(build: Build) -> Build:
    """Builds data modules whose training games have started."""

    def module(**options: Any) -> ProcgenDataModule:
        data = build(**options)
        data.setup("fit")
        return data

    return module


def first_frames(data: ProcgenDataModule, level_set: str, num_envs: int = NUM_ENVS) -> NDArray[np.uint8]:
    """What the environments of an evaluation show before the first action."""
    seen: list[NDArray[np.uint8]] = []
    policy = UniformPolicy(data.num_actions)
    list(data.evaluation(level_set, policy, num_envs=num_envs, env_steps=1, watcher=lambda obs, _: seen.append(obs)))
    return seen[0]


def saved_and_loaded(data: ProcgenDataModule, folder: Path) -> Any:
    torch.save(data.state_dict(), folder / "state.pt")
    return torch.load(folder / "state.pt", weights_only=True)


def quiet_trainer() -> Trainer:
    return Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def ranked(data: ProcgenDataModule, rank: int, world_size: int) -> ProcgenDataModule:
    """As Lightning attaches it to the trainer of one rank."""
    data.trainer = cast(Any, SimpleNamespace(lightning_module=RandomAgent(), global_rank=rank, world_size=world_size))
    return data


def test_several_games_share_the_environments_and_each_scales_its_own_rewards(fitting: Build, tmp_path: Path) -> None:
    options: dict[str, Any] = {"num_steps": 60, "num_envs": 4, "seed": 3}
    games = ("starpilot", "dodgeball")
    data = fitting(game=list(games), **options)
    alone = [fitting(game=game, **options | {"num_envs": 2}) for game in games]

    together = collected(data)

    assert data.game == "starpilot+dodgeball"
    for index, one in enumerate(alone):
        rows = slice(2 * index, 2 * index + 2)
        torch.testing.assert_close(together.obs[0, rows], one.collector.collect(UniformPolicy(15)).obs[0])
    assert together.rewards.abs().sum() > 0

    other = fitting(game=list(games), **options | {"seed": 4})
    other.load_state_dict(saved_and_loaded(data, tmp_path))
    for _ in range(2):
        assert_same(collected(other), collected(data))
    assert (other.env_steps, other.collector.metrics()) == (data.env_steps, data.collector.metrics())


def test_several_games_are_judged_one_after_the_other_as_each_alone(build: Build) -> None:
    options = {"num_levels": 5, "start_level": 3, "test_episodes": 2, "validation_episodes": 2, "predict_episodes": 1}
    games = ("bossfight", "dodgeball")
    both = ranked(build(game=list(games), **options), rank=0, world_size=1)
    alone = [ranked(build(game=game, **options), rank=0, world_size=1) for game in games]

    for loader, number in (("val_dataloader", 2), ("test_dataloader", 3), ("predict_dataloader", 1)):
        datasets = getattr(both, loader)()
        assert [dataset._game for dataset in datasets] == [game for game in games for _ in range(number)]
        expected = [dataset for one in alone for dataset in getattr(one, loader)()]
        assert [dataset._level_set for dataset in datasets] == [dataset._level_set for dataset in expected]
    [played], [own] = (list(each) for each in (both.predict_dataloader()[1], alone[1].predict_dataloader()[0]))
    assert (played.game, own.game) == ("dodgeball", "")
    assert torch.equal(played.returns, own.returns)


def test_example_frames_of_several_games_are_of_each(build: Build) -> None:
    both, one, other = (build(game=game) for game in (["starpilot", "maze"], "starpilot", "maze"))

    frames = both.example_frames(3)

    np.testing.assert_array_equal(frames[:2], one.example_frames(2))
    np.testing.assert_array_equal(frames[2:], other.example_frames(1))


def test_rewards_of_several_games_are_all_that_one_can_give() -> None:
    unscaled = ProcgenDataModule(game=["coinrun", "dodgeball"], return_scaling=False)

    assert unscaled.reward_values == (0.0, 2.0, 10.0)
    assert ProcgenDataModule(game=["coinrun", "dodgeball"]).reward_values is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_envs": 3}, r"^data\.num_envs must be a multiple of 2, the number of games, found 3$"),
        ({"num_actors": 2}, r"^data\.num_actors must be 0 where several games are played, found 2$"),
        ({"game": []}, r"^data\.game must be a game, or a list of different games, found \[\]$"),
        ({"game": ["maze", "maze"]}, r"^data\.game must be a game, or a list of different .* found \[maze, maze\]$"),
        ({"game": ["maze", "pong"]}, r"^game must be one of Procgen's, found 'pong'; allowed: bigfish, "),
        ({"game": ["maze", "coinrun"], "distribution_mode": "memory"}, r"^distribution_mode of coinrun must be one of"),
    ],
)
def test_games_that_cannot_be_played_side_by_side_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ProcgenDataModule(**{"game": ["maze", "heist"]} | options)


@pytest.mark.parametrize("game", ["coinrun", "starpilot"])
def test_a_rollout_of_games_has_their_frames_and_actions(game: str, fitting: Build) -> None:
    data = fitting(game=game)

    rollout = collected(data)

    assert rollout.obs.shape == (NUM_STEPS + 1, NUM_ENVS, *data.obs_shape)
    assert rollout.behavior_logits.shape == (NUM_STEPS, NUM_ENVS, data.num_actions)


def test_the_same_seed_collects_the_same_rollouts(fitting: Build) -> None:
    one, other = fitting(seed=3), fitting(seed=3)

    for _ in range(2):
        assert_same(other.collector.collect(UniformPolicy(15)), one.collector.collect(UniformPolicy(15)))


def test_another_seed_starts_other_games_and_takes_other_actions(fitting: Build) -> None:
    one, other = collected(fitting(seed=3)), collected(fitting(seed=4))

    assert not torch.equal(one.obs[0], other.obs[0])
    assert not torch.equal(one.actions, other.actions)


def test_each_rank_has_games_and_actions_of_its_own(build: Build) -> None:
    ranks = [ranked(build(), rank, world_size=2) for rank in range(2)]
    for data in ranks:
        data.setup("fit")

    one, other = (collected(data) for data in ranks)

    assert not torch.equal(one.obs[0], other.obs[0])
    assert not torch.equal(one.actions, other.actions)


def test_env_steps_count_all_ranks(build: Build) -> None:
    data = ranked(build(), 1, world_size=3)
    data.setup("fit")

    collected(data)

    assert data.env_steps == 3 * NUM_STEPS * NUM_ENVS


def test_judging_begins_in_other_games_than_training(fitting: Build) -> None:
    data = fitting(num_levels=0, start_level=0)

    frames = first_frames(data, "train_levels")

    assert not np.array_equal(frames, collected(data).obs[0].numpy())


def test_a_policy_is_judged_on_the_training_levels_and_on_all(build: Build) -> None:
    assert build(num_levels=5, start_level=3).level_sets == {"train_levels": (5, 3), "full_distribution": (0, 0)}


def test_where_all_levels_are_trained_on_there_is_one_set() -> None:
    assert ProcgenDataModule(num_levels=0).level_sets == {"full_distribution": (0, 0)}


def test_yardsticks_are_judged_like_the_agent(build: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ranked(build(test_episodes=NUM_ENVS), rank=0, world_size=1)
    agent = data._agent
    monkeypatch.setattr(agent, "greedy", True)
    monkeypatch.setattr(type(agent), "yardsticks", lambda *_: {"teacher": UniformPolicy(15)}, raising=False)

    greedy = {dataset._level_set: dataset._greedy for dataset in data.test_dataloader()}

    assert greedy["full_distribution"] is greedy["teacher"] is True


@pytest.mark.parametrize("level_set", ["train_levels", "full_distribution", "random_policy"])
def test_a_test_plays_other_games_and_actions_than_validation(level_set: str, build: Build) -> None:
    data = ranked(build(game="starpilot", test_episodes=NUM_ENVS), rank=0, world_size=1)
    (tested,) = (each for each in data.test_dataloader() if each._level_set == level_set)
    env = tested._make_env()
    opening, _ = env.reset()
    env.close()

    validated = data.evaluation(level_set, UniformPolicy(15), num_envs=NUM_ENVS)

    assert tested._seed != validated._seed
    assert not np.array_equal(opening, first_frames(data, level_set))


@pytest.mark.parametrize("global_seed", [1, 2])
def test_without_a_seed_of_its_own_it_takes_that_of_seed_everything(
    global_seed: int, fitting: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    unseeded, zero = collected(fitting()), collected(fitting(seed=0))
    monkeypatch.setenv("PL_GLOBAL_SEED", str(global_seed))

    seeded, given = collected(fitting()), collected(fitting(seed=global_seed))

    assert_same(unseeded, zero)
    assert_same(seeded, given)
    assert not torch.equal(seeded.obs, zero.obs)


def test_a_run_is_judged_on_the_levels_that_it_trained_on(fitting: Build, build: Build, tmp_path: Path) -> None:
    state = saved_and_loaded(fitting(num_levels=7, start_level=3), tmp_path)
    data = build(num_levels=200, start_level=0)

    with pytest.warns(UserWarning, match="200 and data.start_level 0 were asked for, the run trained with 7 and 3"):
        data.load_state_dict(state)

    assert data.level_sets["train_levels"] == (7, 3)


def test_training_and_its_judging_play_the_training_levels_only(fitting: Build) -> None:
    data = fitting(num_levels=1, start_level=7)  # one level: every game shows the same frame

    trained, judged = collected(data).obs[0].numpy(), first_frames(data, "train_levels")

    np.testing.assert_array_equal(np.concatenate([trained, judged]), np.stack([trained[0]] * 4))


@pytest.mark.parametrize("level_set", ["full_distribution", "random_policy"])
def test_every_other_set_plays_all_levels(level_set: str, build: Build) -> None:
    few, many = build(num_levels=1, start_level=7), build(num_levels=0, start_level=0)

    frames = first_frames(few, level_set)

    np.testing.assert_array_equal(frames, first_frames(many, "train_levels"))
    assert not np.array_equal(frames[0], frames[1])


def test_judging_between_two_rollouts_changes_no_bit_of_the_next(fitting: Build) -> None:
    disturbed, quiet = fitting(game="starpilot"), fitting(game="starpilot")
    assert_same(collected(disturbed), collected(quiet))

    list(disturbed.evaluation("train_levels", UniformPolicy(15), num_envs=3, env_steps=30))

    assert_same(collected(disturbed), collected(quiet))


def test_example_frames_are_of_different_games_and_the_same_at_every_call(build: Build) -> None:
    data = build(game="starpilot")

    frames = data.example_frames(3)

    assert frames.shape == (3, *data.obs_shape)
    assert len(np.unique(frames, axis=0)) == 3
    np.testing.assert_array_equal(data.example_frames(3), frames)
    assert not np.array_equal(build(game="starpilot", seed=1).example_frames(3), frames)


def test_example_frames_are_of_training_levels(build: Build) -> None:
    one, other = (build(num_levels=1, start_level=level, game="maze") for level in (7, 8))

    frames, others = one.example_frames(1)[0], other.example_frames(1)[0]

    level = first_frames(one, "train_levels", num_envs=1)[0]
    assert (frames != level).any(-1).mean() < 0.1  # in a maze only the mouse moves, and may come back
    assert (others != level).any(-1).mean() > 0.2


def test_taking_example_frames_ends_their_games_and_changes_no_bit_of_training(
    fitting: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[ProcgenVectorEnv] = []
    close = ProcgenVectorEnv.close_extras

    def noted(env: ProcgenVectorEnv) -> None:
        closed.append(env)
        close(env)

    monkeypatch.setattr(ProcgenVectorEnv, "close_extras", noted)
    disturbed, quiet = fitting(game="starpilot"), fitting(game="starpilot")
    before = torch.get_rng_state()

    disturbed.example_frames(3)

    assert [env.num_envs for env in closed] == [3]
    assert torch.equal(torch.get_rng_state(), before)
    for _ in range(2):
        assert_same(collected(disturbed), collected(quiet))


def test_rewards_are_scaled_unless_told_otherwise(fitting: Build) -> None:
    scaled, raw = (fitting(game="starpilot", num_steps=150, return_scaling=scaling) for scaling in (True, False))

    rewards = collected(raw).rewards

    assert float(rewards.sum()) > 0
    assert raw.collector.metrics()["rollout/reward"] == pytest.approx(float(rewards.mean()))
    assert not torch.equal(collected(scaled).rewards, rewards)
    assert scaled.collector.metrics()["rollout/reward"] == pytest.approx(float(rewards.mean()))


def test_the_discount_of_the_scaling_reaches_the_rewards(fitting: Build) -> None:
    short, long = (fitting(game="starpilot", num_steps=150, return_scaling_gamma=gamma) for gamma in (0.5, 0.99))

    assert not torch.equal(collected(short).rewards, collected(long).rewards)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("distribution_mode", "hard"),
        ("use_backgrounds", False),
        ("use_monochrome_assets", True),
        ("restrict_themes", True),
        ("center_agent", False),
        ("paint_vel_info", True),
    ],
)
def test_every_option_of_the_games_reaches_the_frames(option: str, value: str | bool, fitting: Build) -> None:
    default, altered = collected(fitting()), collected(fitting(**{option: value}))

    assert not torch.equal(default.obs, altered.obs)


def test_another_module_goes_on_from_the_state_bit_for_bit(fitting: Build, tmp_path: Path) -> None:
    original, other = fitting(game="starpilot", num_steps=60, seed=1), fitting(game="starpilot", num_steps=60, seed=2)
    collected(original)
    collected(other)

    other.load_state_dict(saved_and_loaded(original, tmp_path))

    for _ in range(2):
        assert_same(collected(other), collected(original))
    assert (other.env_steps, other.collector.metrics()) == (original.env_steps, original.collector.metrics())


def test_a_state_loaded_without_training_tells_its_env_steps(fitting: Build, build: Build, tmp_path: Path) -> None:
    original = fitting()
    collected(original)
    judge = build()

    judge.load_state_dict(saved_and_loaded(original, tmp_path))

    assert judge.env_steps == NUM_STEPS * NUM_ENVS


@pytest.mark.parametrize(
    ("key", "value"),
    [("game", "starpilot"), ("distribution_mode", "hard"), ("num_levels", 51), ("start_level", 11), ("num_envs", 3)],
)
def test_a_state_of_other_games_is_refused_before_any_is_built(
    key: str, value: str | int, fitting: Build, build: Build
) -> None:
    state = fitting().state_dict()
    other = build(**{key: value})

    with pytest.raises(ValueError, match=f"checkpoint has {key} {state[key]}, this run {value}"):
        other.check_state(state)
    with pytest.raises(RuntimeError, match="setup"):
        _ = other.collector


def test_a_state_of_other_games_is_refused_by_loading(fitting: Build) -> None:
    state = fitting().state_dict()

    with pytest.raises(ValueError, match="start_level"):
        fitting(start_level=11).load_state_dict(state)


def test_a_state_of_another_number_of_ranks_is_refused(fitting: Build, build: Build) -> None:
    state = fitting().state_dict()

    with pytest.raises(ValueError, match="checkpoint has num_ranks 1, this run 2"):
        ranked(build(), 0, world_size=2).check_state(state)


def test_an_inexact_resume_starts_other_games_and_counts_on(fitting: Build) -> None:
    original = fitting()
    collected(original)
    other, same, fresh = (fitting(num_envs=3, allow_inexact_resume=True) for _ in range(3))

    other.load_state_dict(original.state_dict())
    same.load_state_dict(original.state_dict())

    assert other.env_steps == other.state_dict()["env_steps"] == NUM_STEPS * 2
    rollout = collected(other)
    assert not rollout.obs[0].equal(collected(fresh).obs[0])  # levels that the run did not begin with
    assert_same(rollout, collected(same))
    assert other.env_steps == NUM_STEPS * (2 + 3)
    again = fitting(num_envs=3)
    again.load_state_dict(other.state_dict())
    assert again.env_steps == NUM_STEPS * (2 + 3)


@pytest.mark.parametrize("game", ["coinrun", ["coinrun", "starpilot"]])
def test_an_inexact_resume_scales_rewards_as_before(game: str | list[str], fitting: Build) -> None:
    original = fitting(game=game, num_envs=4, num_steps=50, return_scaling=True)
    for _ in range(3):
        collected(original)
    other = fitting(game=game, num_envs=2, num_steps=50, return_scaling=True, allow_inexact_resume=True)

    other.load_state_dict(original.state_dict())

    def moments(state: Any) -> list[Any]:
        """All that are in it, in order."""
        if not isinstance(state, dict):
            return []
        return [state["moments"]] if "moments" in state else [m for part in state.values() for m in moments(part)]

    kept = moments(original.state_dict()["collectors"][0])
    assert len(kept) == (1 if game == "coinrun" else 2)
    assert moments(other.state_dict()["collectors"][0]) == kept
    collected(other)
    assert all(
        after[2] == pytest.approx(before[2] + 50 * 2 / len(kept))
        for after, before in zip(moments(other.state_dict()["collectors"][0]), kept, strict=True)
    )


def test_an_inexact_resume_is_exact_where_nothing_differs(fitting: Build) -> None:
    original, other = fitting(seed=1), fitting(seed=2, allow_inexact_resume=True)
    collected(original)

    other.load_state_dict(original.state_dict())

    assert_same(collected(other), collected(original))


def test_an_inexact_resume_still_refuses_other_levels(fitting: Build, build: Build) -> None:
    state = fitting().state_dict()

    with pytest.raises(ValueError, match="num_levels"):
        build(num_levels=51, allow_inexact_resume=True).check_state(state)


def test_a_replay_is_refused_where_the_number_of_ranks_is_another(fitting: Build, build: Build) -> None:
    state = fitting().state_dict()
    state["collectors"][0]["replay"] = {"game": "coinrun", "digests": []}

    for allowed in (False, True):
        other = ranked(build(allow_inexact_resume=allowed), 0, world_size=2)
        with pytest.raises(ValueError, match=r"num_ranks 1, this run 2; give the same: a replay belongs to its rank$"):
            other.check_state(state)


def test_an_inexact_resume_refuses_what_is_no_replay(fitting: Build, build: Build) -> None:
    state = fitting().state_dict()
    state["collectors"][0]["replay"] = {"game": "coinrun", "digests": [0]}

    with pytest.raises(ValueError, match=r"the checkpoint's collectors\.0\.replay\.digests\.0 must be a str, found 0"):
        build(num_envs=3, allow_inexact_resume=True).check_state(state)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("game", "pong"),
        ("distribution_mode", "memory"),
        ("num_levels", -1),
        ("start_level", -1),
        ("num_envs", 0),
        ("num_steps", 0),
        ("total_env_steps", 0),
        ("iterations_per_epoch", 0),
        ("num_actors", -1),
        ("num_actors", NUM_ENVS + 1),
        ("actor_timeout", 0.0),
        ("return_scaling_gamma", 1.1),
        ("return_scaling_gamma", -0.1),
        ("validation_episodes", 0),
        ("test_episodes", 0),
        ("test_env_steps", 0),
        ("predict_episodes", 0),
        ("num_threads", -1),
        ("seed", -1),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(option: str, value: float | str, build: Build) -> None:
    with pytest.raises(ValueError, match=rf"{option} .*{value}"):
        build(**{option: value})


def test_there_is_no_collector_before_training_is_set_up(build: Build) -> None:
    data = build()
    data.setup("validate")

    with pytest.raises(RuntimeError, match=r"only between setup\('fit'\) and teardown\('fit'\)"):
        _ = data.collector


def test_setting_up_twice_keeps_the_games(fitting: Build) -> None:
    data = fitting()
    collector = data.collector

    data.setup("fit")

    assert data.collector is collector


def test_teardown_ends_the_games_and_keeps_the_count(fitting: Build) -> None:
    data = fitting()
    collected(data)
    env = cast(Any, data.collector).env

    data.teardown("fit")

    assert env.unwrapped.closed
    assert data.env_steps == NUM_STEPS * NUM_ENVS
    with pytest.raises(RuntimeError, match="teardown"):
        _ = data.collector


def test_teardown_of_another_stage_leaves_training_alone(fitting: Build) -> None:
    data = fitting()

    data.teardown("validate")

    assert collected(data).obs.shape[0] == NUM_STEPS + 1


def test_an_epoch_has_so_many_iterations_of_the_agent(fitting: Build) -> None:
    data = fitting(iterations_per_epoch=3)
    data.trainer = cast(Any, SimpleNamespace(lightning_module=RandomAgent(), world_size=1, global_rank=0))

    dataset = data.train_dataloader()

    assert isinstance(dataset, RolloutDataset)
    assert len(dataset) == len(list(dataset)) == 3 * 2


def test_validation_plays_the_episodes_asked_for_on_both_level_sets(build: Build) -> None:
    agent = RandomAgent()

    quiet_trainer().validate(agent, datamodule=build(game="leaper", validation_episodes=3), verbose=False)

    assert [(episodes.level_set, len(episodes.returns)) for episodes in agent.judged] == [
        ("train_levels", 3),
        ("full_distribution", 3),
    ]


def test_many_episodes_are_rounded_up_to_the_same_number_in_each_environment(
    build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lightning_rl.data.episode_datamodule._MAX_EVALUATION_ENVS", 4)
    agent = RandomAgent()

    quiet_trainer().validate(agent, datamodule=build(game="leaper", validation_episodes=5), verbose=False)

    assert [len(episodes.returns) for episodes in agent.judged] == [8, 8]


def test_a_test_also_judges_random_actions(build: Build) -> None:
    agent = RandomAgent()

    quiet_trainer().test(agent, datamodule=build(game="leaper", test_episodes=3), verbose=False)

    assert [(episodes.level_set, len(episodes.returns)) for episodes in agent.judged] == [
        ("train_levels", 3),
        ("full_distribution", 3),
        ("random_policy", 3),
    ]


def test_a_test_may_have_a_budget_of_env_steps_instead(build: Build) -> None:
    agent = RandomAgent()
    data = build(game="leaper", test_episodes=3, test_env_steps=3000)

    quiet_trainer().test(agent, datamodule=data, verbose=False)

    assert all(len(episodes.returns) > 3 for episodes in agent.judged)
    assert all(int(episodes.lengths.sum()) <= 3000 for episodes in agent.judged)


def test_prediction_shows_its_games_to_the_watcher(build: Build) -> None:
    agent, data = RandomAgent(), build(game="leaper", predict_episodes=3)
    shapes: set[tuple[int, ...]] = set()
    data.watcher = lambda obs, _: shapes.add(obs.shape)

    quiet_trainer().predict(agent, datamodule=data)

    assert [(episodes.level_set, len(episodes.returns)) for episodes in agent.judged] == [("full_distribution", 3)]
    assert shapes == {(3, 64, 64, 3)}
