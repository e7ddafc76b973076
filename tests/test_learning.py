"""The methods learn what has a known answer, through the real loop, and do not when a loss is turned around."""

from typing import Any

import pytest
import torch

from lightning_rl.cpu.micro_batches import MicroBatchConfig
from lightning_rl.data.collector import Collector
from lightning_rl.data.rollout_dataset import RolloutDataset
from lightning_rl.modules.ppo import PPOModule
from lightning_rl.modules.ppo_distill import PPODistillModule
from tests.support.toys import ConstantRewardVectorEnv, IdentityVectorEnv, ToyVectorEnv
from tests.support.worlds import OBS_SHAPE, fit

NUM_ACTIONS = 4


def make_module(kind: type[PPOModule] = PPOModule, **options: Any) -> PPOModule:
    torch.manual_seed(0)
    return kind(num_actions=NUM_ACTIONS, obs_shape=OBS_SHAPE, minibatch_size=64, **options)


def learn(module: PPOModule, env: ToyVectorEnv, *, iterations: int) -> None:
    fit(module, RolloutDataset(module, Collector(env, num_steps=16, seed=0), iterations=iterations))


def mean_reward(module: PPOModule) -> float:
    """Of 512 sampled actions, in games that were not trained on; 1 is optimal and 0.25 is chance."""
    env = IdentityVectorEnv(16, seed=1, obs_shape=OBS_SHAPE, num_actions=NUM_ACTIONS)
    return float(Collector(env, num_steps=32, seed=1).collect(module).rewards.mean())


def identity_env() -> IdentityVectorEnv:
    return IdentityVectorEnv(16, obs_shape=OBS_SHAPE, num_actions=NUM_ACTIONS)


def test_ppo_reaches_ninety_percent_of_optimal() -> None:
    module = make_module()
    assert mean_reward(module) < 0.4

    learn(module, identity_env(), iterations=30)  # after 10, every other seed was still below

    assert mean_reward(module) >= 0.9


@pytest.mark.slow
def test_ppo_with_its_policy_loss_negated_unlearns() -> None:
    module = make_module()
    module.loss_weights["policy"] = -1.0

    learn(module, identity_env(), iterations=10)

    assert mean_reward(module) < 0.25


@pytest.mark.slow
@pytest.mark.parametrize("network", ["three_stack", "two_stack"])
def test_ppo_with_distillation_reaches_ninety_percent_of_optimal(network: str) -> None:
    module = make_module(PPODistillModule, network=network, dropout=0.5, normalize_advantages="rollout")

    learn(module, identity_env(), iterations=20)

    assert mean_reward(module) >= 0.9


@pytest.mark.slow
def test_micro_batches_learn_as_well() -> None:
    module = make_module(micro_batches=MicroBatchConfig(size=24))

    learn(module, identity_env(), iterations=30)

    assert mean_reward(module) >= 0.9


@pytest.mark.slow
@pytest.mark.parametrize("value_epsilon", [None, 0.2])
def test_value_converges_to_the_sum_of_the_discounts(value_epsilon: float | None) -> None:
    module = make_module(gamma=0.9, learning_rate=0.05, value_epsilon=value_epsilon)
    env = ConstantRewardVectorEnv(8, obs_shape=OBS_SHAPE, num_actions=NUM_ACTIONS)

    learn(module, env, iterations=60)

    value = module.act(env.reset()[0], torch.Generator()).values
    torch.testing.assert_close(value, torch.full_like(value, 1 / (1 - 0.9)), rtol=0.02, atol=0)


@pytest.mark.slow
def test_value_with_its_loss_negated_does_not_converge() -> None:
    module = make_module(gamma=0.9, learning_rate=0.05, value_epsilon=None)
    module.loss_weights["value"] = -0.5
    env = ConstantRewardVectorEnv(8, obs_shape=OBS_SHAPE, num_actions=NUM_ACTIONS)

    learn(module, env, iterations=20)

    assert (module.act(env.reset()[0], torch.Generator()).values < 0).all()
