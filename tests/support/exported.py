"""Exported policies that are small enough for tests."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_rl.modules.base import RLModule
from lightning_rl.policies.config import RECURRENT, DataConfig, NetworkConfig, PolicyConfig
from lightning_rl.policies.folder import CONFIG, WEIGHTS, write_config, write_tensors
from lightning_rl.policies.policy import ExportedPolicy
from tests.support.worlds import NUM_ACTIONS, OBS_SHAPE


def description(network: NetworkConfig, **options: Any) -> PolicyConfig:
    """Of a policy for frames and actions of the small worlds."""
    known: dict[str, Any] = {
        "format_version": 1,
        "lightning_rl_version": "0.1.0",
        "method": "ppo",
        "game": "maze",
        "network": network,
        "recurrent": network.name == RECURRENT,
        "obs_shape": OBS_SHAPE,
        "num_actions": NUM_ACTIONS,
        "action_meanings": [f"action {number}" for number in range(NUM_ACTIONS)],
        "data": DataConfig(class_path="lightning_rl.ProcgenDataModule", init_args={"game": "maze"}),
    }
    return PolicyConfig(**(known | options))


def policy_of(module: RLModule, **options: Any) -> ExportedPolicy:
    """The acting part of a module."""
    policy = ExportedPolicy(description(module.network_config(), **options))
    weights = module.state_dict()
    policy.load_state_dict({name: weights[name] for name in policy.state_dict()})
    return policy


def new_policy(network: NetworkConfig, **options: Any) -> ExportedPolicy:
    """A policy with the weights that training would start from."""
    torch.manual_seed(0)
    return ExportedPolicy(description(network, **options))


def written(folder: Path, policy: ExportedPolicy, **options: Any) -> Path:
    """A folder with config and weights of the policy."""
    folder.mkdir(parents=True)
    config = policy.config
    files = {WEIGHTS: write_tensors(folder / WEIGHTS, policy.state_dict(), options.get("dtype", config.dtype))}
    write_config(folder / CONFIG, PolicyConfig(**(vars(config) | {"files": files} | options)))
    return folder


def with_extra(folder: Path, name: str, tensors: Mapping[str, Tensor], **described: Any) -> Path:
    """The folder with a further file of weights, and what its config says of it."""
    config = json.loads((folder / CONFIG).read_text())
    config["files"][name] = write_tensors(folder / name, tensors, config["dtype"])
    (folder / CONFIG).write_text(json.dumps(config | described))
    return folder
