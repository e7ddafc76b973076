"""The world model that an exported policy of SimPLe may bring."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor

from lightning_rl.cpu.micro_batches import MicroBatchConfig
from lightning_rl.errors import check_option
from lightning_rl.modules.hyper_parameters import from_plain
from lightning_rl.modules.simple.simulator import Simulator
from lightning_rl.modules.simple.world_model import WorldModelConfig
from lightning_rl.networks.world_model.next_frame import NextFramePredictor
from lightning_rl.policies.config import PolicyConfig
from lightning_rl.policies.folder import WORLD_MODEL, read_extra, read_policy

_REWARDS = "reward_values"
_MOST_REWARDS = 10_000
_WRONG = (ValueError, RuntimeError, TypeError, OverflowError, AttributeError, ZeroDivisionError)


def load_simulator(folder: Path, precision: Callable[[], AbstractContextManager[Any]]) -> Simulator | None:
    """The world model of a policy folder, on the CPU; None where it holds none.

    Args:
        folder: that of the policy.
        precision: enters the context of its predictions, such as a trainer's autocast.

    Raises:
        ValueError: in one line, what is wrong with the folder.
    """
    config = read_policy(folder).config
    if config.world_model is None:
        return None
    options, rewards = _options(folder, config.world_model)
    build = partial(_built, folder, options, config, len(rewards))
    with torch.device("meta"):  # so that sizes are compared before any memory is taken
        described = build()
    weights = read_extra(folder, WORLD_MODEL, config, described.state_dict())
    with torch.random.fork_rng(devices=[]):
        model = build()
    model.load_state_dict(weights)
    return Simulator(model.eval(), rewards, micro_batches=MicroBatchConfig(num_threads=1), precision=precision)


def _options(folder: Path, described: dict[str, Any]) -> tuple[WorldModelConfig, Float32[Tensor, "R"]]:
    """The model's options, and the rewards that a step can give."""
    try:
        own = {name: value for name, value in described.items() if name != _REWARDS}
        options = WorldModelConfig(**from_plain(WorldModelConfig, own))
        rewards = torch.tensor(described.get(_REWARDS, ()), dtype=torch.float32)
        numbers = rewards.ndim == 1 and 1 <= len(rewards) <= _MOST_REWARDS and bool(rewards.isfinite().all())
        check_option(_REWARDS, f"{described.get(_REWARDS)!r:.80}", numbers, f"from 1 to {_MOST_REWARDS} numbers")
    except _WRONG as error:
        raise _refusal(folder, error) from error
    return options, rewards


def _built(folder: Path, options: WorldModelConfig, config: PolicyConfig, num_rewards: int) -> NextFramePredictor:
    try:
        return options.build(config.obs_shape, config.num_actions, num_rewards=num_rewards)
    except _WRONG as error:
        raise _refusal(folder, error) from error


def _refusal(folder: Path, error: Exception) -> ValueError:
    reason = str(error).partition("\n")[0]
    return ValueError(f"{folder} has a config.json that describes no world model: {reason}")
