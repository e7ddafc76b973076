"""An exported policy says what the module says that it is of, to the bit."""

from typing import Any

import numpy as np
import pytest
import torch

from lightning_rl import ImpalaModule, ImpalaVAEModule, PPODistillModule, PPOModule, SimPLeModule
from lightning_rl.modules.base import RLModule
from lightning_rl.modules.impala_vae import VAEConfig
from lightning_rl.modules.simple.world_model import WorldModelConfig
from lightning_rl.policies.config import RECURRENT, NetworkConfig
from lightning_rl.policies.policy import ExportedPolicy
from lightning_rl.types import RecurrentInputs
from tests.support.exported import new_policy, policy_of
from tests.support.worlds import NUM_ACTIONS, OBS_SHAPE, draw_frames, generator

NUM_STEPS, NUM_ENVS = 7, 3
STACKED = (*OBS_SHAPE[:2], 12)
SMALL = WorldModelConfig(hidden=4, compress_steps=1, recurrent_size=0, latent=None)
MODULES: dict[str, tuple[type[RLModule], dict[str, Any]]] = {
    "ppo": (PPOModule, {}),
    "ppo, average": (PPOModule, {"pooling": "average", "pooling_size": 2, "width": 2}),
    "ppo, channels": (PPOModule, {"channels": (4, 8), "hidden": 16}),
    "ppo, two_stack": (PPOModule, {"network": "two_stack", "dropout": 0.5}),
    "ppo, two_conv": (PPOModule, {"network": "two_conv"}),
    "ppo_distill": (PPODistillModule, {"network": "two_stack"}),
    "impala": (ImpalaModule, {}),
    "impala, average": (ImpalaModule, {"pooling": "average"}),
    "impala_vae": (ImpalaVAEModule, {"vae": VAEConfig(latent_size=5, feed="mean")}),
    "impala_vae, rgb": (ImpalaVAEModule, {"vae": VAEConfig(latent_size=5, feed="mean", images="rgb")}),
    "simple": (SimPLeModule, {"obs_shape": STACKED, "world_model": SMALL}),
}


def made(name: str) -> tuple[RLModule, ExportedPolicy]:
    """A module and its acting part."""
    kind, options = MODULES[name]
    given: dict[str, Any] = {"num_actions": NUM_ACTIONS, "obs_shape": OBS_SHAPE} | options
    torch.manual_seed(1)
    module = kind(**given)
    return module, policy_of(module, obs_shape=options.get("obs_shape", OBS_SHAPE), method=name.partition(",")[0])


@pytest.mark.parametrize("name", MODULES)
def test_a_policy_equals_the_module_it_is_of_to_the_bit(name: str) -> None:
    module, policy = made(name)
    frames = np.tile(draw_frames(NUM_STEPS, NUM_ENVS), policy.config.obs_shape[-1] // 3)
    starts = np.random.default_rng(0).random((NUM_STEPS, NUM_ENVS)) < 0.3
    rewards = np.random.default_rng(1).normal(0, 2, (NUM_STEPS, NUM_ENVS)).astype(np.float32)
    stream, inputs = generator(), RecurrentInputs.initial(NUM_ENVS)
    further: tuple[Any, ...] = ()

    for obs, reward, ended in zip(frames, rewards, starts, strict=True):
        expected = module.act(obs, stream, recurrent_inputs=inputs)
        output = policy(obs, *further)

        assert torch.equal(output.logits, expected.logits)
        assert torch.equal(output.values, expected.values)
        assert (output.state is None) == (expected.state is None)
        if output.state is not None and expected.state is not None:
            assert torch.equal(output.state, expected.state)
        inputs = expected.next_inputs(reward, ended)
        further = (output.state, expected.actions, reward, ended)


def test_sampled_actions_are_the_modules() -> None:
    module, policy = made("ppo")
    obs, stream, other = draw_frames(50), generator(), generator()

    assert torch.equal(policy.act(obs, generator=other), module.act(obs, stream).actions)
    assert torch.equal(policy.act(obs, greedy=True), module.act(obs, stream, greedy=True).actions)


@pytest.mark.parametrize("name", ["ppo", "impala_vae"])
def test_a_frames_output_depends_on_no_other_frame_of_its_batch(name: str) -> None:
    _, policy = made(name)
    obs = draw_frames(5)

    together = policy(obs)

    for row in range(5):
        alone = policy(obs[row : row + 1])
        # another kernel may be chosen for another batch size, which adds in another order
        torch.testing.assert_close(alone.logits[0], together.logits[row], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(alone.values[0], together.values[row], atol=1e-6, rtol=1e-5)


def test_a_frame_without_a_state_opens_an_episode() -> None:
    _, policy = made("impala")
    obs, count = draw_frames(4), 4

    first = policy(obs)

    reset = policy(obs, torch.randn(count, policy.state_size), torch.zeros(count), torch.zeros(count), np.ones(count))
    assert torch.equal(first.logits, reset.logits)
    assert first.state is not None
    later = policy(obs, first.state, torch.zeros(count), torch.zeros(count))
    assert not torch.equal(first.logits, later.logits)


def test_arrays_and_tensors_give_the_same() -> None:
    _, policy = made("impala")
    obs = draw_frames(2)
    first = policy(obs)
    assert first.state is not None
    further = (first.state, torch.tensor([3, 4]), torch.tensor([0.5, -0.5]), torch.tensor([False, True]))

    with_arrays = policy(obs, *(tensor.numpy() for tensor in further))

    assert torch.equal(with_arrays.logits, policy(torch.from_numpy(obs), *further).logits)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"obs": np.zeros((1, *OBS_SHAPE), np.float32)}, r"obs must be uint8 of shape \[N, 16, 16, 3\], found float32"),
        ({"obs": np.zeros(OBS_SHAPE, np.uint8)}, r"found uint8 of shape \[16, 16, 3\]"),
        ({"obs": np.zeros((1, 3, 16, 16), np.uint8)}, r"found uint8 of shape \[1, 3, 16, 16\]"),
        ({"state": torch.zeros(1, 512)}, "previous_actions must be given with a state, found None"),
        ({"previous_actions": np.zeros(2)}, r"previous_actions must be of shape \[1\], found \[2\]"),
        (
            {"state": np.zeros((1, 5)), "previous_actions": np.zeros(1), "previous_rewards": np.zeros(1)},
            r"state must be of shape \[1, 512\], found \[1, 5\]",
        ),
    ],
)
def test_a_wrong_argument_is_named(given: dict[str, Any], told: str) -> None:
    policy = new_policy(NetworkConfig(name=RECURRENT, pooling="average"))

    with pytest.raises(ValueError, match=told):
        policy(**({"obs": np.zeros((1, *OBS_SHAPE), np.uint8)} | given))
