from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_rl.data.rollout_dataset import RolloutDataset
from lightning_rl.distributed.running_moments import RunningMoments
from lightning_rl.losses.policy import log_probs_of
from lightning_rl.modules.ppo_distill import DistilledBatch, DistilledTrajectories, PPODistillModule
from lightning_rl.types import Rollout
from tests.support import reference
from tests.support.compare import Array, assert_matches
from tests.support.toys import CountingVectorEnv
from tests.support.worlds import (
    NUM_ACTIONS,
    NUM_ENVS,
    NUM_STEPS,
    OBS_SHAPE,
    Batches,
    draw_frames,
    draw_rollout,
    fit,
    generator,
    learn_once,
    make_collector,
    make_distilled,
)
from tests.support.worlds import (
    whole_distilled_batch as whole_batch,
)

ENDS = draw_rollout(2).terminated.numpy()
BEFORE_AN_END = np.logical_or.accumulate(ENDS[::-1])[::-1]
"""Steps from which the rollout still sees its environment's episode end."""


def array(numbers: Tensor) -> Array:
    return numbers.detach().double().numpy()


def make_trajectories(module: PPODistillModule, rollout: Rollout) -> DistilledTrajectories:
    trajectories = module.trajectories(rollout, {})
    assert isinstance(trajectories, DistilledTrajectories)
    return trajectories


def streams_of(
    module: PPODistillModule, rollout: Rollout, trajectories: DistilledTrajectories
) -> tuple[dict[str, Array], dict[str, Array]]:
    """What the definitions take, for each stream."""
    with torch.no_grad():
        last_values = module.network(rollout.obs[-1]).values
    next_values = torch.cat([rollout.behavior_values[1:], last_values[None]])
    extrinsic, intrinsic = (
        {
            "rewards": array(rewards),
            "values": array(rollout.behavior_values[..., k]),
            "next_values": array(next_values[..., k]),
        }
        for k, rewards in enumerate((rollout.rewards, trajectories.intrinsic_rewards))
    )
    return extrinsic, intrinsic


def advantages_of(stream: dict[str, Array], *, ends: Any, gamma: float, lambda_: float) -> Array:
    return reference.generalized_advantages(**stream, discounts=gamma * (1.0 - ends), lambda_=lambda_)


def objective_world(**options: Any) -> tuple[PPODistillModule, DistilledBatch, Array, Array]:
    """A module, samples of another policy, and the module's logits and values on them."""
    module = make_distilled(**options)
    batch = whole_batch(module, draw_rollout(2))
    with torch.no_grad():
        logits, values = module.network(batch.obs)
    return module, batch, array(logits), array(values)


def critic_of(name: str, batch: DistilledBatch, values: Array) -> dict[str, Array]:
    """Values, values while acting and targets of the critic that a loss is for."""
    if name == "value":
        return {
            "values": values[:, 0],
            "behavior_values": array(batch.behavior_values),
            "targets": array(batch.returns),
        }
    return {
        "values": values[:, 1],
        "behavior_values": array(batch.intrinsic_behavior_values),
        "targets": array(batch.intrinsic_returns),
    }


def assert_is(loss: Tensor, expected: Array) -> None:
    assert_matches(loss.detach(), np.asarray(expected.mean()))


@pytest.mark.parametrize("episodic", [True, False])
def test_advantages_are_the_weighted_sum_of_each_streams_estimate(episodic: bool) -> None:
    options = {"gamma": 0.7, "episodic": episodic, "extrinsic_weight": 2.0, "intrinsic_weight": 0.5}
    module = make_distilled(gamma=0.9, lambda_=0.8, distillation=options)
    rollout = draw_rollout(2)

    trajectories = make_trajectories(module, rollout)

    extrinsic, intrinsic = streams_of(module, rollout, trajectories)
    expected = 2.0 * advantages_of(extrinsic, ends=ENDS, gamma=0.9, lambda_=0.8)
    expected += 0.5 * advantages_of(intrinsic, ends=ENDS & episodic, gamma=0.7, lambda_=0.8)
    assert_matches(trajectories.advantages, expected)


def test_each_critic_regresses_to_the_returns_of_its_own_stream() -> None:
    module = make_distilled(gamma=0.9, lambda_=0.8, distillation={"gamma": 0.7})
    rollout = draw_rollout(2)

    trajectories = make_trajectories(module, rollout)

    extrinsic, intrinsic = streams_of(module, rollout, trajectories)
    returns = advantages_of(extrinsic, ends=ENDS, gamma=0.9, lambda_=0.8) + extrinsic["values"]
    intrinsic_returns = advantages_of(intrinsic, ends=ENDS, gamma=0.7, lambda_=0.8) + intrinsic["values"]
    assert_matches(trajectories.returns, returns)
    assert_matches(trajectories.intrinsic_returns, intrinsic_returns)


def test_equal_weights_and_discounts_give_the_papers_equations_five_to_eight() -> None:
    module = make_distilled(gamma=0.9, lambda_=0.8, distillation={"gamma": 0.9})
    rollout = draw_rollout(2)

    trajectories = make_trajectories(module, rollout)

    extrinsic, intrinsic = streams_of(module, rollout, trajectories)
    expected = reference.combined_advantages(
        rewards=(extrinsic["rewards"], intrinsic["rewards"]),
        values=(extrinsic["values"], intrinsic["values"]),
        next_values=(extrinsic["next_values"], intrinsic["next_values"]),
        done=ENDS.astype(np.float64),
        gamma=0.9,
        lambda_=0.8,
    )
    assert_matches(trajectories.advantages, expected)


def test_intrinsic_returns_that_run_on_differ_exactly_before_the_ends_of_episodes() -> None:
    rollout = draw_rollout(2)

    ended = make_trajectories(make_distilled(), rollout)
    ran_on = make_trajectories(make_distilled(distillation={"episodic": False}), rollout)

    assert BEFORE_AN_END.any()
    assert not BEFORE_AN_END.all()
    assert np.array_equal((ended.intrinsic_returns != ran_on.intrinsic_returns).numpy(), BEFORE_AN_END)
    assert torch.equal(ended.returns, ran_on.returns)


def test_reward_of_one_environment_changes_advantages_and_returns_of_no_other() -> None:
    rollout = draw_rollout(2)
    rewards = rollout.rewards.clone()
    rewards[:, 0] += 1

    before = make_trajectories(make_distilled(), rollout)
    after = make_trajectories(make_distilled(), replace(rollout, rewards=rewards))

    assert (after.advantages[:, 0] > before.advantages[:, 0]).all()
    assert torch.equal(after.advantages[:, 1:], before.advantages[:, 1:])
    assert torch.equal(after.returns[:, 1:], before.returns[:, 1:])


def test_extrinsic_rewards_move_no_target_of_the_intrinsic_critic() -> None:
    rollout = draw_rollout(2)

    before = make_trajectories(make_distilled(), rollout)
    after = make_trajectories(make_distilled(), replace(rollout, rewards=rollout.rewards + 1))

    assert (after.returns > before.returns).all()
    assert torch.equal(after.intrinsic_returns, before.intrinsic_returns)


def test_every_field_of_a_sample_is_of_the_same_step_and_environment() -> None:
    rollout = draw_rollout(2)
    trajectories = make_trajectories(make_distilled(), rollout)
    step, env = 3, 1

    sample = trajectories.minibatch(torch.tensor([step * NUM_ENVS + env]))

    assert torch.equal(sample.obs[0], rollout.obs[step, env])
    assert torch.equal(sample.next_obs[0], rollout.obs[step + 1, env])
    assert torch.equal(sample.student_outputs[0], trajectories.student_outputs[step, env])
    assert torch.equal(sample.actions[0], rollout.actions[step, env])
    assert torch.equal(sample.behavior_values[0], rollout.behavior_values[step, env, 0])
    assert torch.equal(sample.intrinsic_behavior_values[0], rollout.behavior_values[step, env, 1])
    assert torch.equal(sample.intrinsic_returns[0], trajectories.intrinsic_returns[step, env])
    assert torch.equal(sample.behavior_log_probs[0], trajectories.behavior_log_probs[step, env])
    assert torch.equal(sample.advantages[0], trajectories.advantages[step, env])
    assert torch.equal(sample.returns[0], trajectories.returns[step, env])
    assert torch.equal(sample.intrinsic_rewards[0], trajectories.intrinsic_rewards[step, env])


@pytest.mark.parametrize("network", ["three_stack", "two_stack"])
def test_ratio_is_one_at_equal_weights_although_the_critics_drop_out(network: str) -> None:
    module = make_distilled(network=network, dropout=0.5, distillation={"dropout": 0.5}, epsilon=1e-4)
    env = CountingVectorEnv(NUM_ENVS, [2, 3, 7], obs_shape=OBS_SHAPE, num_actions=NUM_ACTIONS)
    batch = whole_batch(module, make_collector(env).collect(module))

    with torch.no_grad():
        objectives = [module.objective(batch, generator(seed)) for seed in (0, 1)]
        log_probs = log_probs_of(batch.actions, module.network(batch.obs, generator()).logits)

    # one float32 rounding or two of a number near log 7: batches of 3 and of 15 frames are summed in another order
    torch.testing.assert_close(log_probs, batch.behavior_log_probs, rtol=0, atol=1e-6)
    first, second = objectives
    assert first.metrics["policy/clip_fraction"] == 0
    assert first.metrics["policy/approx_kl"] < 1e-10
    assert torch.equal(first.losses["policy"], second.losses["policy"])
    assert not torch.equal(first.losses["value"], second.losses["value"])
    assert not torch.equal(first.losses["intrinsic_value"], second.losses["intrinsic_value"])
    assert not torch.equal(first.losses["distill"], second.losses["distill"])


def test_objective_draws_from_its_generator_only() -> None:
    module = make_distilled(dropout=0.5, distillation={"dropout": 0.5})
    batch = whole_batch(module, draw_rollout(2))
    before = torch.get_rng_state()

    first, second = module.objective(batch, generator()), module.objective(batch, generator())

    assert torch.equal(torch.get_rng_state(), before)
    assert first.losses.keys() == second.losses.keys()
    assert all(torch.equal(first.losses[name], second.losses[name]) for name in first.losses)


def test_intrinsic_reward_is_the_scaled_error_on_the_frame_that_the_action_led_to() -> None:
    module = make_distilled(distillation={"num_outputs": 2, "max_reward": 1e6})
    rollout = draw_rollout(2)

    rewards = make_trajectories(module, rollout).intrinsic_rewards

    with torch.no_grad():
        images = module.normalizer(rollout.obs[1:].flatten(0, 1))
        teacher, student = array(module.teacher(images)), array(module.student(images))
    expected = 100.0 * reference.absolute_prediction_error(teacher, student)  # Table 1: distillation_scale 100
    assert_matches(rewards, expected.reshape(NUM_STEPS, NUM_ENVS))


def test_intrinsic_reward_is_clipped_at_ten() -> None:
    rollout = draw_rollout(2)

    rewards = make_trajectories(make_distilled(distillation={"scale": 500.0}), rollout).intrinsic_rewards

    unbounded = make_trajectories(make_distilled(distillation={"scale": 500.0, "max_reward": 1e6}), rollout)
    assert (unbounded.intrinsic_rewards > 10).any()
    assert (unbounded.intrinsic_rewards < 10).any()
    assert torch.equal(rewards, unbounded.intrinsic_rewards.clamp(max=10))


@pytest.mark.parametrize("changed", [0, 2, NUM_STEPS])
def test_frame_changes_the_intrinsic_reward_of_the_step_before_it_only(changed: int) -> None:
    module = make_distilled()
    obs = draw_rollout(2).obs
    other = obs.clone()
    other[changed] = 255 - other[changed]

    before, _ = module.intrinsic_rewards(obs[1:], {}, update=True)
    after, _ = module.intrinsic_rewards(other[1:], {}, update=True)
    rewards = make_trajectories(make_distilled(), replace(draw_rollout(2), obs=obs)).intrinsic_rewards

    steps = (before != after).any(1)
    assert torch.equal(steps.nonzero().flatten(), torch.tensor([changed - 1] if changed else [], dtype=torch.int64))
    assert rewards.shape == (NUM_STEPS, NUM_ENVS)


@pytest.mark.parametrize("normalization", ["scale", "running_std"])
def test_intrinsic_reward_is_computed_without_dropout(normalization: str) -> None:
    options = {"normalization": normalization, "dropout": 0.5}
    rollout = draw_rollout(2)

    first = make_trajectories(make_distilled(distillation=options), rollout)
    before = torch.get_rng_state()
    second = make_trajectories(make_distilled(distillation=options).train(), rollout)

    assert torch.equal(first.intrinsic_rewards, second.intrinsic_rewards)
    without = make_trajectories(make_distilled(distillation=options | {"dropout": 0.0}), rollout)
    assert torch.equal(first.intrinsic_rewards, without.intrinsic_rewards)
    assert torch.equal(torch.get_rng_state(), before)  # every module starts from the same one


def test_intrinsic_reward_decays_when_the_teacher_learns_the_same_frames() -> None:
    module = make_distilled(distillation={"dropout": 0.5, "learning_rate": 3e-3})
    rollout = draw_rollout(2)
    batch = whole_batch(module, rollout)
    before, _ = module.intrinsic_rewards(rollout.obs[1:], {}, update=True)
    optimizer = module.configure_optimizers()

    for seed in range(50):
        optimizer.zero_grad()
        module.objective(batch, generator(seed)).losses["distill"].backward()
        optimizer.step()

    after, _ = module.intrinsic_rewards(rollout.obs[1:], {}, update=True)
    assert after.mean() < 0.3 * before.mean()


def test_teacher_learns_on_the_frames_that_the_rewards_came_from() -> None:
    module = make_distilled(distillation={"max_reward": 1e6})
    rollout = draw_rollout(2)
    batch = whole_batch(module, rollout)

    loss = module.objective(batch, generator()).losses["distill"]

    errors = batch.intrinsic_rewards / 100.0  # of one output, so the loss is the mean of their squares
    torch.testing.assert_close(loss.detach(), errors.square().mean(), rtol=1e-4, atol=0)


def test_teacher_learns_nothing_from_the_frames_that_were_acted_on() -> None:
    module = make_distilled()
    batch = whole_batch(module, draw_rollout(2))

    losses = module.objective(batch, generator()).losses
    other = module.objective(replace(batch, obs=255 - batch.obs), generator()).losses

    assert torch.equal(losses["distill"], other["distill"])
    assert not torch.equal(losses["value"], other["value"])


def test_teacher_learns_from_its_share_of_the_samples_only() -> None:
    module = make_distilled(distillation={"update_share": 0.41})
    batch = whole_batch(module, draw_rollout(2))
    learned = 7  # rounded up from 0.41 of 15

    losses = module.objective(batch, generator()).losses
    module.distillation = replace(module.distillation, update_share=1.0)
    part = module.objective(batch.map_tensors(lambda tensor: tensor[:learned]), generator()).losses
    whole = module.objective(batch, generator()).losses

    assert len(batch) == 15
    torch.testing.assert_close(losses["distill"], part["distill"], rtol=1e-5, atol=0)
    assert not torch.isclose(losses["distill"], whole["distill"], rtol=1e-3)
    assert torch.equal(losses["value"], whole["value"])


def test_pixel_statistics_take_each_frame_that_was_led_to_once() -> None:
    module = make_distilled()
    rollout = draw_rollout(2)

    make_trajectories(module, rollout)

    assert module.normalizer.count == NUM_STEPS * NUM_ENVS
    assert torch.equal(module.normalizer.totals, rollout.obs[1:].long().sum((0, 1)))


@pytest.mark.parametrize("num_rollouts", [1, 2, 3])
def test_running_std_is_of_the_filter_over_time_of_all_rollouts(num_rollouts: int) -> None:
    module = make_distilled(distillation={"normalization": "running_std", "gamma": 0.9, "num_outputs": 2})
    frames = [torch.from_numpy(draw_frames(NUM_STEPS, NUM_ENVS, seed=seed)) for seed in range(num_rollouts)]
    memory: dict[str, Tensor] = {}

    rewards = [module.intrinsic_rewards(each, memory, update=True)[0] for each in frames][-1]

    errors = np.concatenate([squared_errors(module, each) for each in frames])
    sums = reference.forward_discounted_sums(errors, np.zeros(NUM_ENVS), 0.9)
    variance = variance_with_pseudo_observation(sums)
    assert_matches(rewards, errors[-NUM_STEPS:] / np.sqrt(variance))
    assert float(module.intrinsic_moments[1]) == pytest.approx(variance, rel=1e-5)
    assert_matches(memory["intrinsic_sums"], sums[-1])


def squared_errors(module: PPODistillModule, frames: Tensor) -> Array:
    with torch.no_grad():
        images = module.normalizer(frames.flatten(0, 1))
        errors = reference.prediction_error(array(module.teacher(images)), array(module.student(images)))
    return errors.reshape(frames.shape[:2])


def variance_with_pseudo_observation(sums: Array) -> float:
    """Of the sums, and of weight 1e-4 at mean 0 with variance 1: what RND's running statistics start from."""
    weight = 1e-4
    mean = sums.sum() / (sums.size + weight)
    squares = ((sums - mean) ** 2).sum() + weight * (1 + mean**2)
    return float(squares / (sums.size + weight))


def test_rollouts_of_the_warmup_pay_nothing_and_do_not_count_in_the_running_std() -> None:
    options = {"normalization": "running_std", "gamma": 0.9, "num_outputs": 2, "warmup_rollouts": 2}
    module = make_distilled(distillation=options)
    memory: dict[str, Tensor] = {}
    rollouts = [draw_rollout(2, seed=seed) for seed in range(4)]

    made: list[DistilledTrajectories] = []
    errors: list[Array] = []
    for rollout in rollouts:
        trajectories = module.trajectories(rollout, memory)
        assert isinstance(trajectories, DistilledTrajectories)
        made.append(trajectories)
        errors.append(squared_errors(module, rollout.obs[1:]))  # by the pixel statistics of that rollout

    sums = reference.forward_discounted_sums(np.concatenate(errors), np.zeros(NUM_ENVS), 0.9)
    variance = variance_with_pseudo_observation(sums[2 * NUM_STEPS :])
    assert not any(one.intrinsic_rewards.any() for one in made[:2])
    assert_matches(made[3].intrinsic_rewards, errors[3] / np.sqrt(variance))
    assert float(module.intrinsic_moments[1]) == pytest.approx(variance, rel=1e-5)


def test_looking_at_rewards_leaves_the_running_std_alone() -> None:
    module = make_distilled(distillation={"normalization": "running_std"})
    obs = draw_rollout(2).obs[1:]
    module.intrinsic_rewards(obs, {}, update=True)
    before = module.intrinsic_moments.clone()

    rewards, _ = module.intrinsic_rewards(obs, {}, update=False)

    assert torch.equal(module.intrinsic_moments, before)
    assert_matches(rewards, squared_errors(module, obs) / np.sqrt(float(before[1])))


def test_running_std_goes_on_through_the_ends_of_episodes() -> None:
    rollout = draw_rollout(2)
    options = {"normalization": "running_std"}

    with_ends = make_trajectories(make_distilled(distillation=options), rollout)
    endless = replace(rollout, terminated=torch.zeros_like(rollout.terminated))
    without = make_trajectories(make_distilled(distillation=options), endless)

    assert torch.equal(with_ends.intrinsic_rewards, without.intrinsic_rewards)


@pytest.mark.parametrize("normalization", ["scale", "running_std"])
def test_trajectories_carry_no_gradient(normalization: str) -> None:
    trajectories = make_trajectories(make_distilled(distillation={"normalization": normalization}), draw_rollout(2))

    tensors = [value for value in vars(trajectories).values() if isinstance(value, Tensor)]
    assert len(tensors) == 11
    assert not any(value.requires_grad for value in tensors)


def test_running_variance_is_saved_in_double_precision() -> None:
    module = make_distilled(distillation={"normalization": "running_std"})
    module.trajectories(draw_rollout(2), {})

    other = make_distilled(distillation={"normalization": "running_std"})
    other.load_state_dict(module.state_dict())

    assert other.intrinsic_moments.dtype == torch.float64
    assert torch.equal(other.intrinsic_moments, module.intrinsic_moments)
    assert not torch.equal(other.intrinsic_moments, torch.tensor(RunningMoments(), dtype=torch.float64))


def test_student_takes_no_gradient_and_is_in_no_parameter_group() -> None:
    module = make_distilled()
    student = {id(parameter) for parameter in module.student.parameters()}

    optimized = {id(parameter) for group in module.configure_optimizers().param_groups for parameter in group["params"]}

    assert student
    assert not any(parameter.requires_grad for parameter in module.student.parameters())
    assert not student & optimized
    assert optimized == {id(parameter) for parameter in module.parameters() if parameter.requires_grad}


def test_training_changes_teacher_and_agent_and_no_bit_of_the_student() -> None:
    module = make_distilled()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    env = CountingVectorEnv(NUM_ENVS, [2, 3, 7], obs_shape=OBS_SHAPE, num_actions=NUM_ACTIONS)

    fit(module, RolloutDataset(module, make_collector(env), iterations=2))

    changed = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert not {name for name in changed if name.startswith("student")}
    assert {"teacher.head.4.weight", "network.actor.weight", "network.critics.0.weight"} <= changed
    assert "network.critics.1.weight" in changed


@pytest.mark.parametrize("loss", ["policy", "value", "intrinsic_value", "entropy"])
def test_losses_of_the_agent_reach_no_parameter_of_the_teacher(loss: str) -> None:
    module = make_distilled()
    batch = whole_batch(module, draw_rollout(2))

    module.objective(batch, generator()).losses[loss].backward()

    assert all(parameter.grad is None for parameter in module.teacher.parameters())
    assert module.get_parameter("network.torso.1.weight").grad is not None


def test_error_of_the_teacher_reaches_every_parameter_of_the_teacher_and_none_else() -> None:
    module = make_distilled()
    batch = whole_batch(module, draw_rollout(2))

    module.objective(batch, generator()).losses["distill"].backward()

    reached = {name for name, parameter in module.named_parameters() if parameter.grad is not None}
    assert reached == {f"teacher.{name}" for name, _ in module.teacher.named_parameters()}


def test_value_losses_reach_their_own_critic_only() -> None:
    reached = []
    for loss in ("value", "intrinsic_value"):
        module = make_distilled()
        batch = whole_batch(module, draw_rollout(2))
        module.objective(batch, generator()).losses[loss].backward()
        critics: Any = module.network.critics
        reached.append([bool(critic.weight.grad.any()) for critic in critics])

    assert reached == [[True, False], [False, True]]


def test_teachers_gradient_is_the_mean_over_all_samples_of_the_minibatch() -> None:
    module = make_distilled()
    rollout = draw_rollout(2)
    batch = whole_batch(module, rollout)
    images = module.normalizer(batch.next_obs)
    (module.teacher(images) - module.student(images)).square().mean().backward()
    expected = [parameter.grad for parameter in module.teacher.parameters()]
    module.zero_grad()

    gradients, _ = learn_once(module, batch)

    actual = [gradients[f"teacher.{name}"] for name, _ in module.teacher.named_parameters()]
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-7)


def test_every_minibatch_moves_the_teacher() -> None:
    module = make_distilled(minibatch_size=5, epochs=1)
    trajectories = module.trajectories(draw_rollout(2), {})
    batches = [trajectories.minibatch(indices) for indices in torch.arange(15).split(5)]
    states = [module.get_parameter("teacher.head.4.weight").detach().clone()]

    for batch in batches:
        fit(module, Batches(batch))
        states.append(module.get_parameter("teacher.head.4.weight").detach().clone())

    assert [torch.equal(*pair) for pair in pairwise(states)] == [False] * 3


@pytest.mark.parametrize("num_outputs", [1, 512])
def test_teachers_small_gradients_move_it_by_its_learning_rate(num_outputs: int) -> None:
    module = make_distilled(distillation={"num_outputs": num_outputs})
    optimizer = module.configure_optimizers()
    batch = whole_batch(module, draw_rollout(2))
    before = [weights.detach().clone() for weights in module.teacher.parameters()]
    module.objective(batch, generator(0)).losses["distill"].backward()
    gradients = torch.cat(
        [weights.grad.flatten() for weights in module.teacher.parameters() if weights.grad is not None]
    )

    optimizer.step()

    moved = torch.cat([(a - b).abs().flatten() for a, b in zip(module.teacher.parameters(), before, strict=True)])
    assert moved[gradients != 0].median() > 0.9 * module.distillation.learning_rate


def test_agent_and_teacher_have_the_papers_learning_rates() -> None:
    module = make_distilled()

    agent, teacher = module.configure_optimizers().param_groups

    assert (agent["lr"], teacher["lr"]) == (5e-4, 2e-4)
    assert (agent["eps"], teacher["eps"]) == (1e-5, 1e-8)
    assert {id(p) for p in agent["params"]} == {id(p) for p in module.network.parameters()}
    assert {id(p) for p in teacher["params"]} == {id(p) for p in module.teacher.parameters()}


@pytest.mark.parametrize("huge", [0, 1])
def test_huge_gradient_of_one_group_is_clipped_and_leaves_the_others_alone(huge: int) -> None:
    module = make_distilled()
    optimizer = module.configure_optimizers()
    for index, group in enumerate(optimizer.param_groups):
        for parameter in group["params"]:
            parameter.grad = torch.full_like(parameter, 1e6 if index == huge else 1e-5)

    module.configure_gradient_clipping(optimizer)

    norms = [
        nn.utils.get_total_norm([parameter.grad for parameter in group["params"]]) for group in optimizer.param_groups
    ]
    assert float(norms[huge]) == pytest.approx(0.5, rel=1e-4)  # OpenAI's max_grad_norm
    other = optimizer.param_groups[1 - huge]["params"]
    assert all(torch.equal(parameter.grad, torch.full_like(parameter, 1e-5)) for parameter in other)


def test_value_weight_is_applied_once_to_each_critic() -> None:
    weights = make_distilled(value_weight=0.5, entropy_weight=0.01).loss_weights

    assert weights == {"policy": 1.0, "value": 0.5, "entropy": 0.01, "intrinsic_value": 0.5, "distill": 1.0}


def test_metrics_carry_no_gradient() -> None:
    module, batch, _, _ = objective_world()

    metrics = module.objective(batch, generator()).metrics

    assert not any(metric.requires_grad for metric in metrics.values())


def test_logged_intrinsic_reward_is_the_mean_of_the_minibatch() -> None:
    module, batch, _, _ = objective_world()

    metrics = module.objective(batch, generator()).metrics

    assert torch.equal(metrics["intrinsic/reward"], batch.intrinsic_rewards.mean())


def test_logged_share_is_how_much_of_the_advantages_is_intrinsic() -> None:
    options = {"gamma": 0.7, "extrinsic_weight": 2.0, "intrinsic_weight": 0.5}
    module = make_distilled(gamma=0.9, lambda_=0.8, distillation=options)
    rollout = draw_rollout(2)
    trajectories = make_trajectories(module, rollout)

    metrics = module.objective(whole_batch(module, rollout), generator()).metrics

    extrinsic, intrinsic = streams_of(module, rollout, trajectories)
    game = 2.0 * advantages_of(extrinsic, ends=ENDS, gamma=0.9, lambda_=0.8)
    own = 0.5 * advantages_of(intrinsic, ends=ENDS, gamma=0.7, lambda_=0.8)
    game, own = abs(game - game.mean()), abs(own - own.mean())
    assert 0.1 < float(metrics["intrinsic/share"]) < 0.9
    assert float(metrics["intrinsic/share"]) == pytest.approx((own / (own + game)).mean(), rel=1e-4)


def test_what_pays_nothing_has_no_share() -> None:
    module = make_distilled(distillation={"intrinsic_weight": 0.0, "extrinsic_weight": 0.0})

    metrics = module.objective(whole_batch(module, draw_rollout(2)), generator()).metrics

    assert float(metrics["intrinsic/share"]) == 0.0


@pytest.mark.parametrize("name", ["value", "intrinsic_value"])
def test_value_losses_without_clipping_are_half_squared_errors_of_each_critic(name: str) -> None:
    module, batch, _, values = objective_world(value_epsilon=None)

    loss = module.objective(batch, generator()).losses[name]

    critic = critic_of(name, batch, values)
    assert_is(loss, reference.squared_value_loss(critic["values"], critic["targets"]))


@pytest.mark.parametrize("name", ["value", "intrinsic_value"])
def test_value_losses_with_clipping_keep_each_critic_near_its_own_old_value(name: str) -> None:
    module, batch, _, values = objective_world(value_epsilon=0.3)

    loss = module.objective(batch, generator()).losses[name]

    critic = critic_of(name, batch, values)
    expected = reference.clipped_value_loss(**critic, epsilon=0.3)
    assert not np.allclose(expected, reference.squared_value_loss(critic["values"], critic["targets"]))
    assert_is(loss, expected)


def test_policy_loss_takes_the_advantages_of_both_streams() -> None:
    module, batch, logits, _ = objective_world(epsilon=0.3, distillation={"intrinsic_weight": 0.5})

    loss = module.objective(batch, generator()).losses["policy"]

    log_probs = reference.log_probs_of(batch.actions.numpy(), logits)
    ratios = {"log_probs": log_probs, "behavior_log_probs": array(batch.behavior_log_probs)}
    assert_is(loss, -reference.clipped_surrogate(**ratios, advantages=array(batch.advantages), epsilon=0.3))
