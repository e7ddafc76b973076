from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_rl.data.evaluation_dataset import EvaluationDataset
from lightning_rl.data.rollout_dataset import RolloutDataset
from lightning_rl.envs.normalize import ReturnScaling
from lightning_rl.envs.statistics import EpisodeStatistics
from lightning_rl.modules.ppo import PPOBatch, PPOModule
from tests.support import reference
from tests.support.compare import Array, assert_matches
from tests.support.toys import CountingVectorEnv
from tests.support.worlds import (
    NUM_ACTIONS,
    NUM_ENVS,
    NUM_STEPS,
    OBS_SHAPE,
    draw_frames,
    draw_rollout,
    fit,
    generator,
    make_collector,
    make_module,
    whole_batch,
)

ENDS = draw_rollout(1).terminated.numpy()


def array(numbers: Tensor) -> Array:
    return numbers.detach().double().numpy()


def objective_world(**options: Any) -> tuple[PPOModule, PPOBatch, Array, Array]:
    """A module, samples of another policy, and the module's logits and values on them."""
    module = make_module(**options)
    batch = whole_batch(module, draw_rollout(1))
    with torch.no_grad():
        logits, values = module.network(batch.obs)
    return module, batch, array(logits), array(values[:, 0])


def assert_is(loss: Tensor, expected: Array) -> None:
    assert_matches(loss.detach(), np.asarray(expected.mean()))


def test_advantages_and_returns_are_generalized_estimates_of_the_games_rewards() -> None:
    module = make_module(gamma=0.9, lambda_=0.8)
    rollout = draw_rollout(1)

    trajectories = module.trajectories(rollout, {})

    with torch.no_grad():
        last_values = module.network(rollout.obs[-1]).values
    values = array(rollout.behavior_values[..., 0])
    advantages = reference.generalized_advantages(
        rewards=array(rollout.rewards),
        values=values,
        next_values=array(torch.cat([rollout.behavior_values[1:], last_values[None]])[..., 0]),
        discounts=0.9 * (1.0 - ENDS),
        lambda_=0.8,
    )
    assert_matches(trajectories.advantages, advantages)
    assert_matches(trajectories.returns, advantages + values)


def test_reward_of_one_environment_changes_no_other() -> None:
    rollout = draw_rollout(1)
    rewards = rollout.rewards.clone()
    rewards[:, 0] += 1

    before = make_module().trajectories(rollout, {})
    after = make_module().trajectories(replace(rollout, rewards=rewards), {})

    assert (after.advantages[:, 0] > before.advantages[:, 0]).all()
    assert torch.equal(after.advantages[:, 1:], before.advantages[:, 1:])
    assert torch.equal(after.returns[:, 1:], before.returns[:, 1:])


def test_every_field_of_a_sample_is_of_the_same_step_and_environment() -> None:
    rollout = draw_rollout(1)
    trajectories = make_module().trajectories(rollout, {})
    step, env = 3, 1

    sample = trajectories.minibatch(torch.tensor([step * NUM_ENVS + env]))

    assert torch.equal(sample.obs[0], rollout.obs[step, env])
    assert torch.equal(sample.behavior_values[0], rollout.behavior_values[step, env, 0])
    for name in ("actions", "behavior_log_probs", "advantages", "returns"):
        assert torch.equal(getattr(sample, name)[0], getattr(trajectories, name)[step, env])


def test_value_loss_without_clipping_is_half_the_squared_error() -> None:
    module, batch, _, values = objective_world(value_epsilon=None)

    loss = module.objective(batch, generator()).losses["value"]

    assert_is(loss, reference.squared_value_loss(values, array(batch.returns)))


def test_value_loss_with_clipping_keeps_the_critic_near_its_old_value() -> None:
    module, batch, _, values = objective_world(value_epsilon=0.3)

    loss = module.objective(batch, generator()).losses["value"]

    targets = array(batch.returns)
    expected = reference.clipped_value_loss(
        values=values, behavior_values=array(batch.behavior_values), targets=targets, epsilon=0.3
    )
    assert not np.allclose(expected, reference.squared_value_loss(values, targets))
    assert_is(loss, expected)


def test_there_is_one_critic_one_parameter_group_and_a_weight_for_each_loss() -> None:
    module = make_module(value_weight=0.7, entropy_weight=0.03)

    objective = module.objective(whole_batch(module, draw_rollout(1)), generator())

    assert len(list(module.get_submodule("network.critics").children())) == 1
    assert {name.split(".")[0] for name in module.state_dict()} == {"network"}
    assert len(module.configure_optimizers().param_groups) == 1
    assert module.loss_weights == {"policy": 1.0, "value": 0.7, "entropy": 0.03}
    assert objective.losses.keys() == module.loss_weights.keys()
    assert not any(key.startswith("intrinsic") for key in objective.metrics)


def test_a_rollout_is_carried_without_gradient() -> None:
    trajectories = make_module().trajectories(draw_rollout(1), {})

    tensors = [value for value in vars(trajectories).values() if isinstance(value, Tensor)]
    assert len(tensors) == 6
    assert not any(value.requires_grad for value in tensors)


def test_last_step_has_the_advantage_of_the_value_that_it_led_to() -> None:
    module = make_module(gamma=0.9)
    rollout = draw_rollout(1)

    advantages = module.trajectories(rollout, {}).advantages[-1]

    with torch.no_grad():
        last_values = module.network(rollout.obs[-1]).values[:, 0]
    expected = rollout.rewards[-1] + 0.9 * last_values - rollout.behavior_values[-1, :, 0]
    torch.testing.assert_close(advantages, expected, rtol=1e-5, atol=1e-6)


def test_behavior_log_probs_are_of_the_actions_that_were_taken() -> None:
    rollout = draw_rollout(1)

    trajectories = make_module().trajectories(rollout, {})

    expected = reference.log_probs_of(rollout.actions.numpy(), array(rollout.behavior_logits))
    assert_matches(trajectories.behavior_log_probs, expected)


def test_advantages_are_normalized_over_the_rollout_if_asked() -> None:
    rollout = draw_rollout(1)

    advantages = make_module(normalize_advantages="rollout").trajectories(rollout, {}).advantages

    expected = reference.normalized(array(make_module().trajectories(rollout, {}).advantages))
    assert_matches(advantages, expected)


@pytest.mark.parametrize("normalize_advantages", ["minibatch", "rollout"])
def test_advantages_are_normalized_once_over_what_the_setting_says(normalize_advantages: str) -> None:
    module = make_module(normalize_advantages=normalize_advantages, minibatch_size=5, epochs=1)

    batches = list(module.batches(make_collector(CountingVectorEnv(NUM_ENVS, [2, 3, 7], obs_shape=OBS_SHAPE))))

    parts = batches if normalize_advantages == "minibatch" else [_joined(batches)]
    for part in parts:
        torch.testing.assert_close(part.advantages.mean(), torch.tensor(0.0), rtol=0, atol=1e-5)
        torch.testing.assert_close(part.advantages.std(correction=0), torch.tensor(1.0), rtol=1e-5, atol=0)
    assert (batches[0].advantages.mean().abs() < 1e-5) == (normalize_advantages == "minibatch")


def _joined(batches: list[PPOBatch]) -> PPOBatch:
    names = [field.name for field in fields(PPOBatch)]
    return PPOBatch(**{name: torch.cat([getattr(batch, name) for batch in batches]) for name in names})


def test_papers_rollout_gives_three_minibatches_that_hold_every_step_of_every_environment() -> None:
    num_steps, num_envs = 256, 24
    module = make_module(epochs=2, minibatch_size=2048, obs_shape=(8, 8, 3))
    env = CountingVectorEnv(num_envs, [1000], obs_shape=(8, 8, 3), num_actions=NUM_ACTIONS)

    batches = list(module.batches(make_collector(env, num_steps=num_steps)))

    assert module.batches_per_iteration(num_steps, num_envs) == 2 * 3
    assert [len(batch) for batch in batches] == [2048] * 6
    for epoch in (batches[:3], batches[3:]):
        steps = torch.cat([batch.obs[:, 0, 0, 0] for batch in epoch]).long()  # every pixel is the step
        assert torch.equal(steps.bincount(), torch.full((num_steps,), num_envs))


def test_trainer_takes_one_step_for_each_minibatch_of_each_epoch_of_each_rollout() -> None:
    module = make_module(epochs=2, minibatch_size=5)
    env = CountingVectorEnv(NUM_ENVS, [2, 3, 7], obs_shape=OBS_SHAPE, num_actions=NUM_ACTIONS)
    data = RolloutDataset(module, make_collector(env), iterations=2)

    trainer = fit(module, data, max_epochs=3)

    assert module.batches_per_iteration(NUM_STEPS, NUM_ENVS) == 2 * 3
    assert trainer.global_step == 3 * 2 * module.batches_per_iteration(NUM_STEPS, NUM_ENVS)


def test_rollout_that_minibatches_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.minibatch_size must divide .* = 15 samples, found 4"):
        make_module(minibatch_size=4).batches_per_iteration(NUM_STEPS, NUM_ENVS)


def test_minibatches_follow_the_sources_generator_only() -> None:
    module = make_module(minibatch_size=5, epochs=1)
    orders = []

    for seed in (0, 1):
        torch.manual_seed(seed)
        env = CountingVectorEnv(NUM_ENVS, [1000], obs_shape=OBS_SHAPE, num_actions=NUM_ACTIONS)
        orders.append(torch.cat([batch.obs[:, 0, 0, 0] for batch in module.batches(make_collector(env))]))

    assert torch.equal(*orders)


def test_white_frame_enters_the_network_as_one() -> None:
    module = make_module()
    seen = []
    next(layer for layer in module.network.modules() if isinstance(layer, nn.Conv2d)).register_forward_pre_hook(
        lambda _, images: seen.append(images[0])
    )

    module.act(np.full((2, *OBS_SHAPE), 255, dtype=np.uint8), generator())

    assert torch.equal(seen[0], torch.ones(2, 3, 16, 16))


def test_frames_enter_the_network_alike_in_training_and_in_evaluation() -> None:
    module = make_module(minibatch_size=5)
    seen: list[Tensor] = []
    module.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))

    def make_env() -> EpisodeStatistics:
        env = CountingVectorEnv(NUM_ENVS, [NUM_STEPS], obs_shape=OBS_SHAPE, num_actions=NUM_ACTIONS)
        return EpisodeStatistics(env)

    list(EvaluationDataset("train_levels", make_env, module, episodes_per_env=1, seed=0))
    evaluated, seen[:] = torch.stack(seen), []
    make_collector(make_env()).collect(module)

    assert evaluated.dtype == torch.uint8
    assert len(evaluated) == NUM_STEPS
    assert torch.equal(torch.stack(seen), evaluated)


def test_logged_episode_return_is_the_games_and_not_the_scaled_one() -> None:
    env = CountingVectorEnv(NUM_ENVS, [NUM_STEPS], obs_shape=OBS_SHAPE, num_actions=NUM_ACTIONS)
    collector = make_collector(EpisodeStatistics(ReturnScaling(env)))

    rollout = collector.collect(make_module())

    steps = np.arange(NUM_STEPS)[:, None]
    raw = CountingVectorEnv.rewards_of(steps, rollout.actions.numpy())
    assert collector.metrics()["episode/return"] == pytest.approx(raw.sum(0).mean())
    assert rollout.rewards.max() <= 10


def test_acting_drops_nothing_out() -> None:
    frames = draw_frames(NUM_ENVS)

    with_dropout = make_module(dropout=0.5).train().act(frames, generator())

    without = make_module(dropout=0.0).act(frames, generator())
    assert torch.equal(with_dropout.values, without.values)
    assert torch.equal(with_dropout.logits, without.logits)


def test_policy_loss_is_the_negated_mean_of_the_clipped_surrogate() -> None:
    module, batch, logits, _ = objective_world(epsilon=0.3)

    loss = module.objective(batch, generator()).losses["policy"]

    log_probs = reference.log_probs_of(batch.actions.numpy(), logits)
    ratios = {"log_probs": log_probs, "behavior_log_probs": array(batch.behavior_log_probs)}
    clipped = np.abs(np.exp(ratios["log_probs"] - ratios["behavior_log_probs"]) - 1) > 0.3
    assert 0 < clipped.mean() < 1
    assert_is(loss, -reference.clipped_surrogate(**ratios, advantages=array(batch.advantages), epsilon=0.3))


def test_policy_metrics_compare_the_learned_policy_with_the_one_that_acted() -> None:
    module, batch, logits, _ = objective_world()

    metrics = module.objective(batch, generator()).metrics

    log_probs = reference.log_probs_of(batch.actions.numpy(), logits)
    ratios = {"log_probs": log_probs, "behavior_log_probs": array(batch.behavior_log_probs)}
    clipped = np.abs(np.exp(ratios["log_probs"] - ratios["behavior_log_probs"]) - 1) > 0.2
    assert_is(metrics["policy/approx_kl"], reference.approx_kl(**ratios))
    assert_is(metrics["policy/clip_fraction"], clipped.astype(np.float64))
    assert_is(metrics["policy/entropy"], reference.entropy(logits))


def test_entropy_loss_is_the_negated_mean_entropy() -> None:
    module, batch, logits, _ = objective_world()

    loss = module.objective(batch, generator()).losses["entropy"]

    assert_is(loss, -reference.entropy(logits))
