"""Play to learn a world model from: small frames of noise, kept in memory, and modules that fit them."""

from typing import Any

import torch
from torch import Tensor

from lightning_rl.data.replay import ReplayBuffer
from lightning_rl.modules.simple.module import SimPLeModule
from lightning_rl.modules.simple.outer_loop import OuterLoopConfig
from lightning_rl.modules.simple.world_model import WorldModelConfig
from lightning_rl.networks.world_model.latent import LatentConfig
from lightning_rl.protocols import Policy
from lightning_rl.types import RecurrentInputs, Rollout, Windows

H, W, K, A = 12, 10, 3, 5
OBS_SHAPE = (H, W, 3 * K)
REWARDS = (-1.0, 0.0, 0.25, 1.0)
SMALL: dict[str, Any] = {"hidden": 8, "compress_steps": 2, "filter_double_steps": 1, "num_targets": 2, "batch_size": 6}
CODE = LatentConfig(num_bits=8, bits_per_symbol=4, channels=4, prior_size=7)
KINDS: dict[str, dict[str, Any]] = {
    "deterministic": {"latent": None, "recurrent_size": 0, "pixels": "squared", "frame_cutoff": 10.0},
    "stochastic": {"latent": CODE, "recurrent_size": 5},
}


def options(kind: str = "deterministic", **given: Any) -> WorldModelConfig:
    return WorldModelConfig(**{**SMALL, **KINDS[kind], **given})


def module(kind: str = "deterministic", *, world_model: dict[str, Any] | None = None, **given: Any) -> SimPLeModule:
    torch.manual_seed(3)
    defaults: dict[str, Any] = {
        "num_imagined_envs": 4,
        "imagined_length": 6,
        "minibatch_size": 8,
        "outer_loop": OuterLoopConfig(
            first_world_model_updates=5,
            world_model_updates=3,
            imagined_steps=48,
            imagined_passes={2: 2},
            world_model_slice=2,
            policy_slice=1,
        ),
    }
    return SimPLeModule(
        num_actions=A,
        obs_shape=OBS_SHAPE,
        reward_values=REWARDS,
        world_model=options(kind, **(world_model or {})),
        **{**defaults, **given},
    )


def play(*, num_steps: int = 9, num_envs: int = 4, seed: int = 0) -> Rollout:
    """Noise, with stacks that roll on, rewards of all classes and an end now and then."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(256, (num_steps + K, num_envs, H, W, 3), generator=generator, dtype=torch.uint8)
    obs = torch.stack([torch.cat(list(frames[step : step + K]), dim=-1) for step in range(num_steps + 1)])
    rewards = torch.tensor(REWARDS)[torch.randint(len(REWARDS), (num_steps, num_envs), generator=generator)]
    return Rollout(
        actions=torch.randint(A, (num_steps, num_envs), generator=generator),
        rewards=rewards,
        terminated=torch.rand(num_steps, num_envs, generator=generator) < 0.15,
        behavior_logits=torch.zeros(num_steps, num_envs, A),
        behavior_values=torch.zeros(num_steps, num_envs, 1),
        obs=obs,
        recurrent_inputs=RecurrentInputs.initial(num_envs),
    )


def windows(number: int = 6, *, num_targets: int = 2, seed: int = 0, valid: bool = True) -> Windows:
    """Windows of noise; all of their steps are valid, and none ends, unless asked otherwise."""
    generator = torch.Generator().manual_seed(seed)
    length = K + num_targets
    chances = torch.rand(2, number, length - 1, generator=generator)
    return Windows(
        frames=torch.randint(256, (number, length, H, W, 3), generator=generator, dtype=torch.uint8),
        actions=torch.randint(A, (number, length - 1), generator=generator),
        rewards=torch.tensor(REWARDS)[torch.randint(len(REWARDS), (number, length - 1), generator=generator)],
        ended=(chances[0] < 0.3) & (not valid),
        valid=(chances[1] < 0.7) | valid,
    )


class Recorded:
    """A source that replays `play`."""

    def __init__(self, replay: ReplayBuffer | None, *, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.memory: dict[str, Tensor] = {}
        self.replay = replay
        self.collected = 0

    def collect(self, policy: Policy) -> Rollout:  # noise takes no notice
        self.collected += 1
        return play(seed=self.collected)
