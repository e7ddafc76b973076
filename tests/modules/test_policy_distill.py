import math
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from lightning_rl.data.collector import Collector
from lightning_rl.data.rollout_dataset import RolloutDataset
from lightning_rl.modules.exported import Player
from lightning_rl.modules.lesson import Lesson
from lightning_rl.modules.policy_distill import PolicyDistillModule, TaughtBatch, TaughtTrajectories
from lightning_rl.modules.teachers import Teachers
from lightning_rl.policies.config import RECURRENT, NetworkConfig
from lightning_rl.policies.policy import ExportedPolicy
from lightning_rl.types import ActorOutput, Episodes, RecurrentInputs, Rollout
from tests.support import reference
from tests.support.compare import Array, assert_matches
from tests.support.teachers import make_teacher, write_teacher
from tests.support.toys import CountingVectorEnv
from tests.support.worlds import (
    NUM_ACTIONS,
    NUM_ENVS,
    NUM_STEPS,
    OBS_SHAPE,
    SIZES,
    Batches,
    draw_rollout,
    fit,
    generator,
    make_collector,
    make_trainer,
)

GAMES: dict[str, Any] = {"obs_shape": OBS_SHAPE, "num_actions": NUM_ACTIONS}
EPSILON = 0.2


def array(numbers: Tensor) -> Array:
    return numbers.detach().double().numpy()


def teacher_of(tmp_path: Path, **options: Any) -> str:
    return str(write_teacher(tmp_path / "teacher", make_teacher(**(GAMES | options))))


def teachers_of(tmp_path: Path, **networks: NetworkConfig) -> dict[str, str]:
    """Teachers with weights of their own, by game."""
    made = {game: make_teacher(game=game, network=network, **GAMES) for game, network in networks.items()}
    return {game: str(write_teacher(tmp_path / game, policy)) for game, policy in made.items()}


def make_two_game_student(tmp_path: Path, **options: Any) -> PolicyDistillModule:
    small = NetworkConfig(name="three_stack", channels=[2, 3], hidden=5, pooling="average")
    teachers = teachers_of(tmp_path, maze=small, coinrun=small)
    return make_student(**({"teachers": teachers, "games": ("coinrun", "maze")} | options))


def make_student(tmp_path: Path | None = None, **options: Any) -> PolicyDistillModule:
    teacher = {} if tmp_path is None else {"teacher": teacher_of(tmp_path)}
    torch.manual_seed(0)
    return PolicyDistillModule(**(SIZES | {"epochs": 1} | teacher | options))


def games() -> CountingVectorEnv:
    return CountingVectorEnv(NUM_ENVS, (3, 5, 7), obs_shape=OBS_SHAPE, num_actions=NUM_ACTIONS)


def player(policy: ExportedPolicy) -> Player:
    return Player(policy, torch.no_grad)


def batch_of(module: PolicyDistillModule) -> TaughtBatch:
    """All samples of a rollout of another policy, with answers that no network gave."""
    draw = np.random.default_rng(4)
    taught = {
        "teacher_logits": torch.from_numpy(draw.normal(size=(NUM_STEPS, NUM_ENVS, NUM_ACTIONS))).float(),
        "teacher_values": torch.from_numpy(draw.normal(size=(NUM_STEPS, NUM_ENVS))).float(),
    }
    trajectories = module.trajectories(draw_rollout(1), {})
    samples = TaughtTrajectories(**vars(trajectories), **taught)
    return samples.minibatch(torch.arange(NUM_STEPS * NUM_ENVS))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_loss_is_the_mean_divergence_from_the_teacher(temperature: float) -> None:
    module = make_student(temperature=temperature)
    batch = batch_of(module)

    losses, metrics = module.objective(batch, generator())

    logits = array(module.network(batch.obs).logits)
    expected = reference.kl_divergence(array(batch.teacher_logits) / temperature, logits)
    assert losses.keys() == {"distill"} == module.weights(batch).keys()
    assert_matches(losses["distill"].detach(), expected.mean())
    assert_matches(metrics["teacher/divergence"], expected.mean())
    same = array(batch.teacher_logits).argmax(-1) == logits.argmax(-1)
    assert_matches(metrics["teacher/agreement"], same.mean())


def test_values_are_regressed_to_the_teachers() -> None:
    module = make_student(regress_values=True, value_weight=0.3)
    batch = batch_of(module)

    losses, _ = module.objective(batch, generator())

    values = array(module.network(batch.obs).values[:, 0])
    expected = reference.squared_value_loss(values, array(batch.teacher_values))
    assert_matches(losses["value"].detach(), expected.mean())
    assert module.weights(batch) == {"distill": 1.0, "value": 0.3}


def test_the_proximal_loss_is_ppos_beside_the_divergence_weighted_by_its_clipped_ratio() -> None:
    module = make_student(loss="proximal", epsilon=EPSILON, divergence_weight=0.7)
    batch = batch_of(module)

    losses, metrics = module.objective(batch, generator())

    logits = array(module.network(batch.obs).logits)
    ratios = np.exp(reference.log_probs_of(batch.actions.numpy(), logits) - array(batch.behavior_log_probs))
    assert ratios.min() < 1 - EPSILON < ratios.max()  # both sides of the clip
    divergences = reference.kl_divergence(array(batch.teacher_logits), logits)
    assert_matches(losses["distill"].detach(), (np.maximum(ratios, 1 - EPSILON) * divergences).mean())
    surrogate = reference.clipped_surrogate(
        log_probs=reference.log_probs_of(batch.actions.numpy(), logits),
        behavior_log_probs=array(batch.behavior_log_probs),
        advantages=array(batch.advantages),
        epsilon=EPSILON,
    )
    assert_matches(losses["policy"].detach(), -surrogate.mean())
    assert module.weights(batch) == {"policy": 1.0, "value": 0.5, "entropy": 0.01, "distill": 0.7}
    assert losses.keys() == module.weights(batch).keys()
    assert "policy/clip_fraction" in metrics


def test_the_weight_of_the_divergence_falls_linearly_to_zero(tmp_path: Path) -> None:
    module = make_student(tmp_path, loss="proximal", divergence_weight=2.0, fading_steps=4 * NUM_STEPS * NUM_ENVS)
    collector = make_collector(games())

    weights = []
    for _ in range(5):
        batch = next(iter(module.batches(collector)))
        weights.append(module.weights(batch)["distill"])

    assert weights == [1.5, 1.0, 0.5, 0.0, 0.0]


def test_it_falls_by_what_all_ranks_play_and_goes_on_after_a_restart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"loss": "proximal", "fading_steps": 4 * NUM_STEPS * NUM_ENVS}
    module, again = (make_student(tmp_path / name, **options) for name in ("first", "again"))
    collector = make_collector(games())
    monkeypatch.setattr("lightning_rl.modules.policy_distill.collectives", SimpleNamespace(world_size=lambda: 2))

    first = module.weights(next(iter(module.batches(collector))))["distill"]
    again.load_state_dict(module.state_dict())
    second = again.weights(next(iter(again.batches(collector))))["distill"]

    assert (first, second) == (0.5, 0.0)


def taught_by(lesson: Lesson, collector: Collector) -> tuple[Rollout, Tensor, Tensor]:
    """A rollout, and the teacher's logits and values."""
    rollout = collector.collect(lesson)
    assert rollout.teacher_logits is not None
    assert rollout.teacher_values is not None
    return rollout, rollout.teacher_logits, rollout.teacher_values


def test_the_teacher_is_asked_about_every_frame_that_the_student_visits(tmp_path: Path) -> None:
    module = make_student(tmp_path)

    (batch,) = module.batches(make_collector(games()))

    assert isinstance(batch, TaughtBatch)
    assert module.teacher is not None
    logits, values, _ = module.teacher(batch.obs)
    torch.testing.assert_close(batch.teacher_logits, logits)
    torch.testing.assert_close(batch.teacher_values, values[:, 0])


def test_the_teacher_plays_in_its_share_of_the_environments_and_the_share_falls(tmp_path: Path) -> None:
    share = {"teacher_share": 2 / NUM_ENVS, "teacher_share_steps": 2 * NUM_STEPS * NUM_ENVS}
    module = make_student(tmp_path, **share)
    teacher = module.teacher
    assert teacher is not None
    collector = make_collector(games())

    for taught in (2, 1, 0):  # of three environments
        (batch,) = module.batches(collector)
        own, others = module.network(batch.obs).logits, teacher(batch.obs).logits
        of_teacher = log_probs(batch.actions, others) - batch.behavior_log_probs
        of_student = log_probs(batch.actions, own) - batch.behavior_log_probs
        assert int((of_teacher.abs() < 1e-5).sum()) == taught * NUM_STEPS
        assert int((of_student.abs() < 1e-5).sum()) == (NUM_ENVS - taught) * NUM_STEPS


def log_probs(actions: Tensor, logits: Tensor) -> Tensor:
    return torch.from_numpy(reference.log_probs_of(actions.numpy(), array(logits)))


def test_a_recurrent_teacher_carries_its_state_through_the_students_games(tmp_path: Path) -> None:
    network = NetworkConfig(name=RECURRENT, pooling="average")
    module = make_student(teacher=teacher_of(tmp_path, network=network))
    teacher = module.teacher
    assert teacher is not None
    collector = make_collector(games())
    lesson = Lesson(module, player(teacher), teacher_share=0.0)

    rollouts = [taught_by(lesson, collector) for _ in range(2)]

    inputs = RecurrentInputs.initial(NUM_ENVS)
    state: Tensor | None = None
    for rollout, logits, values in rollouts:
        assert rollout.raw_rewards is not None
        for step in range(NUM_STEPS):
            output = teacher(rollout.obs[step], state, inputs.previous_actions, inputs.previous_rewards, inputs.starts)
            torch.testing.assert_close(logits[step], output.logits)
            torch.testing.assert_close(values[step], output.values[:, 0])
            state = output.state
            inputs = replace(
                inputs,
                previous_actions=rollout.actions[step],
                previous_rewards=rollout.raw_rewards[step],
                starts=rollout.terminated[step],
            )
    assert rollouts[0][0].terminated.any()


def test_each_game_is_taught_by_its_own_teacher_which_plays_a_share_of_its_environments(tmp_path: Path) -> None:
    module = make_two_game_student(tmp_path)
    games = {"num_games": 2}
    env = CountingVectorEnv(6, (3, 5, 7), obs_shape=OBS_SHAPE, num_actions=NUM_ACTIONS)
    policies = {game: module.teachers[game] for game in module.games}
    lesson = Lesson(module, Teachers(cast(Any, policies), torch.no_grad), teacher_share=2 / 3, **games)

    rollout, logits, values = taught_by(lesson, make_collector(env))

    frames = rollout.obs[:-1].flatten(0, 1)
    for game, rows in (("coinrun", slice(0, 3)), ("maze", slice(3, 6))):
        own = module.teachers[game](frames)
        own_logits = own.logits.unflatten(0, logits.shape[:2])[:, rows]
        torch.testing.assert_close(logits[:, rows], own_logits)
        torch.testing.assert_close(values[:, rows], own.values[:, 0].unflatten(0, values.shape)[:, rows])
        torch.testing.assert_close(rollout.behavior_logits[:, rows][:, :2], own_logits[:, :2])
        students = module.network(frames).logits.unflatten(0, logits.shape[:2])[:, rows]
        torch.testing.assert_close(rollout.behavior_logits[:, rows][:, 2:], students[:, 2:])
    assert not torch.allclose(logits[:, 0], logits[:, 3])


def test_teachers_with_and_without_a_memory_teach_side_by_side(tmp_path: Path) -> None:
    recurrent, plain = NetworkConfig(name=RECURRENT, pooling="average"), NetworkConfig(name="two_conv")
    for order in (("coinrun", "maze"), ("maze", "coinrun")):
        teachers = teachers_of(tmp_path / order[0], **dict(zip(order, (recurrent, plain), strict=True)))
        module = make_student(teachers=teachers, games=("coinrun", "maze"))
        policies = cast(Any, {game: module.teachers[game] for game in module.games})
        lesson = Lesson(module, Teachers(policies, torch.no_grad), teacher_share=0.0, num_games=2)
        env = CountingVectorEnv(4, (3, 5, 4, 3), obs_shape=OBS_SHAPE, num_actions=NUM_ACTIONS)

        rollout, logits, _ = taught_by(lesson, make_collector(env))

        teacher, rows = policies[order[0]], slice(0, 2) if order[0] == "coinrun" else slice(2, 4)
        output = teacher(rollout.obs[0][rows])
        assert rollout.raw_rewards is not None
        for step in range(NUM_STEPS):
            torch.testing.assert_close(logits[step, rows], output.logits)
            told = rollout.actions[step][rows], rollout.raw_rewards[step][rows], rollout.terminated[step][rows]
            output = teacher(rollout.obs[step + 1][rows], output.state, *told)


def test_learning_changes_the_student_and_never_the_teacher(tmp_path: Path) -> None:
    module = make_student(tmp_path, learning_rate=0.01)
    assert module.teacher is not None
    teacher = {name: tensor.clone() for name, tensor in module.teacher.state_dict().items()}
    student = [parameter.detach().clone() for parameter in module.network.parameters()]

    fit(module, RolloutDataset(module, make_collector(games()), iterations=3))

    assert all(torch.equal(tensor, teacher[name]) for name, tensor in module.teacher.state_dict().items())
    assert not any(parameter.requires_grad for parameter in module.teacher.parameters())
    changed = [not torch.equal(a, b) for a, b in zip(student, module.network.parameters(), strict=True)]
    assert sum(changed) == len(changed) - 2  # the critic's weight and bias learn nothing


def test_a_student_of_the_same_kind_learns_the_teachers_policy(tmp_path: Path) -> None:
    module = make_student(tmp_path, channels=(2, 3), hidden=5, pooling="average", learning_rate=0.03)
    collector = make_collector(games())

    divergences = []
    for iterations in (0, 30):
        if iterations:
            fit(module, RolloutDataset(module, collector, iterations=iterations))
        (batch,) = module.batches(collector)
        assert isinstance(batch, TaughtBatch)
        divergences.append(float(module.objective(batch, generator())[1]["teacher/divergence"]))

    assert divergences[1] < 0.1 * divergences[0]


def test_a_student_can_start_from_the_teachers_weights(tmp_path: Path) -> None:
    same = {"channels": (2, 3), "hidden": 5, "pooling": "average"}
    module = make_student(tmp_path, start_from_teacher=True, **same)
    other = make_student(tmp_path, start_from_teacher=True, **(same | {"hidden": 11}))

    assert module.teacher is not None
    for name, tensor in module.teacher.network.state_dict().items():
        assert torch.equal(module.network.state_dict()[name], tensor)
        shares = other.network.state_dict()[name].shape == tensor.shape
        assert torch.equal(other.network.state_dict()[name], tensor) == shares


def test_a_checkpoint_brings_its_teacher_when_the_file_is_gone(tmp_path: Path) -> None:
    module = make_student(tmp_path)
    trainer = fit(module, RolloutDataset(module, make_collector(games()), iterations=1))
    trainer.save_checkpoint(tmp_path / "student.ckpt")
    for file in (tmp_path / "teacher").iterdir():
        file.unlink()

    loaded = PolicyDistillModule.load_from_checkpoint(tmp_path / "student.ckpt")

    assert loaded.teacher is not None
    assert loaded.state_dict().keys() == module.state_dict().keys()
    assert all(torch.equal(tensor, module.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    assert loaded.yardsticks("dodgeball").keys() == {"teacher"}


def test_a_checkpoint_brings_the_teachers_of_all_games(tmp_path: Path) -> None:
    module = make_two_game_student(tmp_path)
    env = CountingVectorEnv(4, (3, 5), obs_shape=OBS_SHAPE, num_actions=NUM_ACTIONS)
    options = {"minibatch_size": 4 * NUM_STEPS}
    module.minibatch_size = options["minibatch_size"]
    trainer = fit(module, RolloutDataset(module, make_collector(env), iterations=1))
    trainer.save_checkpoint(tmp_path / "student.ckpt")
    for game in module.games:
        shutil.rmtree(tmp_path / game)

    loaded = PolicyDistillModule.load_from_checkpoint(tmp_path / "student.ckpt")

    loaded.check_trainer(make_trainer())
    assert loaded.state_dict().keys() == module.state_dict().keys()
    assert all(torch.equal(tensor, module.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    obs = np.random.default_rng(0).integers(256, size=(2, *OBS_SHAPE), dtype=np.uint8)
    for game in ("coinrun", "maze"):
        teacher = loaded.yardsticks(game)["teacher"]
        torch.testing.assert_close(teacher.act(obs, generator()).logits, module.teachers[game](obs).logits)
    assert loaded.yardsticks("heist") == {}


@pytest.mark.parametrize(
    ("teachers", "message"),
    [
        ({"heist": {}}, r"^ckpt_path: the checkpoint has teachers of heist, the games of this run are coinrun, maze$"),
        ("coinrun", r"^teachers must be "),
    ],
)
def test_teachers_that_a_checkpoint_cannot_have_are_refused(teachers: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        make_two_game_student(tmp_path).prepare_for({"teachers": teachers})


def played(level_set: str, returns: list[float]) -> Batches:
    return Batches(
        Episodes(
            level_set=level_set,
            returns=torch.tensor(returns, dtype=torch.float64),
            lengths=torch.ones(len(returns), dtype=torch.int64),
            level_complete=None,
        )
    )


def test_going_on_takes_the_checkpoints_teacher_whatever_is_at_its_path_now(tmp_path: Path) -> None:
    module = make_student(tmp_path)
    trainer = fit(module, RolloutDataset(module, make_collector(games()), iterations=1))
    trainer.save_checkpoint(tmp_path / "student.ckpt", weights_only=True)
    larger = NetworkConfig(name="three_stack", channels=[3, 5], hidden=7, pooling="average")
    other = make_student(teacher=teacher_of(tmp_path, network=larger))

    make_trainer().test(
        other, dataloaders=[played("teacher", [1.0])], ckpt_path=str(tmp_path / "student.ckpt"), verbose=False
    )

    assert module.teacher is not None
    assert other.teacher is not None
    assert other.teacher.config == module.teacher.config
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in module.state_dict().items())


def test_another_teacher_does_not_replace_the_checkpoints_but_a_copy_of_it_may(tmp_path: Path) -> None:
    module = make_student(tmp_path)
    fit(module, RolloutDataset(module, make_collector(games()), iterations=1)).save_checkpoint(tmp_path / "run.ckpt")
    saved = torch.load(tmp_path / "run.ckpt", weights_only=True)
    copied = shutil.copytree(tmp_path / "teacher", tmp_path / "copied")
    other = teacher_of(tmp_path / "other", network=NetworkConfig(name="three_stack", channels=[2, 3], hidden=5))

    moved = make_student(teacher=str(copied))
    moved.prepare_for(saved)
    moved.prepare_for(saved)  # as the command does, and then Lightning
    make_student().prepare_for(saved)

    for path in (other, str(tmp_path / "nowhere")):
        with pytest.raises(ValueError, match=rf"^ckpt_path: the run is taught by .*teacher; .*, found {path}$"):
            make_student(teacher=path).prepare_for(saved)


@pytest.mark.parametrize(
    ("games", "message"),
    [
        (("coinrun",), r"^model\.teacher must be a policy of game coinrun, found one of game dodgeball$"),
        (
            ("dodgeball", "maze"),
            r"^model\.teacher must be a policy of game dodgeball and maze, found one of game dodge",
        ),
    ],
)
def test_one_teacher_must_play_all_games(games: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        make_student(tmp_path, games=games).check_trainer(make_trainer())


def without_a_weight(saved: dict[str, Any]) -> None:
    del saved["state_dict"]["network.actor.bias"]


def of_another_width(saved: dict[str, Any]) -> None:
    saved["hyper_parameters"]["hidden"] = 11


def of_another_kind(saved: dict[str, Any]) -> None:
    saved["hyper_parameters"]["channels"] = "x"


@pytest.mark.parametrize("harm", [without_a_weight, of_another_width, of_another_kind])
def test_a_damaged_teacher_is_told_in_one_line(harm: Callable[[dict[str, Any]], None], tmp_path: Path) -> None:
    module = make_student(tmp_path, channels=(2, 3), hidden=5)
    fit(module, RolloutDataset(module, make_collector(games()), iterations=1)).save_checkpoint(tmp_path / "run.ckpt")
    saved = torch.load(tmp_path / "run.ckpt", weights_only=True)
    saved["hyper_parameters"]["teacher"] = str(tmp_path / "run.ckpt")  # its own: a student as a teacher needs none
    torch.save(saved, tmp_path / "run.ckpt")
    make_student(teacher=str(tmp_path / "run.ckpt")).check_trainer(make_trainer())
    harm(saved)
    torch.save(saved, tmp_path / "run.ckpt")

    with pytest.raises(ValueError, match=r"^model\.teacher: [^\n]+$"):
        make_student(teacher=str(tmp_path / "run.ckpt")).check_trainer(make_trainer())


def test_a_teachers_path_may_begin_at_home_and_is_not_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    teacher_of(tmp_path)

    make_student(teacher="~/teacher").check_trainer(make_trainer())

    with pytest.raises(ValueError, match=r"^model\.teacher must be a path, found an empty text$"):
        make_student(teacher="").check_trainer(make_trainer())


def test_teachers_answers_stay_on_the_device(tmp_path: Path) -> None:
    recurrent, plain = NetworkConfig(name=RECURRENT, pooling="average"), NetworkConfig(name="two_conv")
    module = make_student(teachers=teachers_of(tmp_path, coinrun=recurrent, maze=plain), games=("coinrun", "maze"))
    teachers = Teachers(cast(Any, {game: module.teachers[game] for game in module.games}), torch.no_grad)
    size = cast(ExportedPolicy, module.teachers["coinrun"]).state_size

    with torch.device("meta"):  # as any device that is not the CPU
        answer = ActorOutput(
            actions=torch.zeros(2).long(), logits=torch.zeros(2, NUM_ACTIONS), values=torch.zeros(2, 1)
        )
        joined = teachers._joined([replace(answer, state=torch.zeros(2, size)), answer])

    assert joined.state is not None
    assert (joined.state.device.type, tuple(joined.state.shape)) == ("meta", (4, size))


def test_testing_logs_the_teachers_return_beside_the_students() -> None:
    returns = {"full_distribution": [1.0, 2.0], "teacher": [3.0, 5.0]}
    logged = make_trainer().test(make_student(), dataloaders=[played(*item) for item in returns.items()], verbose=False)

    assert logged == [{"test/return": 1.5}, {"test/teacher_return": 4.0}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"^model\.teacher must be a checkpoint, a run folder or an exported policy, found null$"),
        ({"teacher": "nowhere"}, r"^model\.teacher: nowhere is not there"),
    ],
)
def test_learning_without_a_teacher_is_refused(options: dict[str, Any], message: str) -> None:
    module = make_student(**options)

    with pytest.raises(ValueError, match=message):
        module.check_trainer(make_trainer())


def test_a_teacher_of_other_games_is_refused(tmp_path: Path) -> None:
    module = make_student(teacher=teacher_of(tmp_path, num_actions=4))

    with pytest.raises(ValueError, match=r"^model\.teacher must be of num_actions 7 .* found one of num_actions 4$"):
        module.check_trainer(make_trainer())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"games": ("coinrun",)},
            r"^model\.teachers must be one for each game of data\.game \(coinrun\), found of maze, c",
        ),
        (
            {"games": ("coinrun", "heist")},
            r"^model\.teachers must be .*\(coinrun, heist\), found of maze",
        ),
        ({"teacher": "somewhere"}, r"^model\.teacher must be null where model\.teachers are given, found somewhere$"),
        ({"start_from_teacher": True}, r"^model\.start_from_teacher must be false with several teachers, found True$"),
    ],
)
def test_teachers_that_do_not_fit_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        make_two_game_student(tmp_path, **options)


@pytest.mark.parametrize(
    ("maze", "message"),
    [
        ("nowhere", r"^model\.teachers\.maze: nowhere is not there"),
        ("coinrun", r"^model\.teachers\.maze must be a policy of game maze, found one of game coinrun$"),
    ],
)
def test_a_teacher_that_cannot_teach_its_game_is_named(maze: str, message: str, tmp_path: Path) -> None:
    small = NetworkConfig(name="two_conv")
    teachers = teachers_of(tmp_path, coinrun=small)
    own = {"coinrun": teachers["coinrun"], "maze": teachers.get(maze, maze)}
    module = make_student(teachers=own, games=("coinrun", "maze"))

    with pytest.raises(ValueError, match=message):
        module.check_trainer(make_trainer())


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("temperature", 0.0),
        ("divergence_weight", 0.0),
        ("fading_steps", 0),
        ("teacher_share", 1.5),
        ("teacher_share_steps", 0),
    ],
)
def test_options_out_of_range_are_refused(option: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"^model\.{option} must be .*, found {value}$"):
        make_student(**{option: value})


@pytest.mark.parametrize(("share", "told"), [(0.1, True), (2 / NUM_ENVS, False), (0.0, False)])
def test_a_share_of_less_than_one_environment_is_told(share: float, told: bool, tmp_path: Path) -> None:
    module = make_student(tmp_path, teacher_share=share)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module.lesson(make_collector(games()))

    assert any("the teacher plays nowhere" in str(warning.message) for warning in caught) is told


def test_what_would_learn_nothing_in_the_end_is_refused_where_it_would_learn(tmp_path: Path) -> None:
    module = make_student(tmp_path, fading_steps=1000)

    with pytest.raises(ValueError, match=r"^model\.fading_steps must be null where nothing else is learned"):
        module.check_trainer(make_trainer())
    make_student(tmp_path, fading_steps=1000, regress_values=True).check_trainer(make_trainer())


def test_values_have_one_target_only() -> None:
    with pytest.raises(ValueError, match=r"^model\.regress_values must be false with the proximal loss"):
        make_student(loss="proximal", regress_values=True)


def test_divergence_of_a_certain_teacher_is_finite() -> None:
    module = make_student()
    batch = replace(batch_of(module), teacher_logits=torch.full((NUM_STEPS * NUM_ENVS, NUM_ACTIONS), -1e4))
    batch.teacher_logits[:, 0] = 0

    losses, _ = module.objective(batch, generator())

    assert math.isfinite(losses["distill"].detach())


def test_where_the_teacher_plays_the_students_own_values_are_kept(tmp_path: Path) -> None:
    module = make_student(tmp_path, teacher_share=2 / NUM_ENVS)

    (batch,) = module.batches(make_collector(games()))

    with torch.no_grad():
        values = module.network(batch.obs).values[:, 0]
    torch.testing.assert_close(batch.behavior_values, values, rtol=1e-4, atol=1e-5)
