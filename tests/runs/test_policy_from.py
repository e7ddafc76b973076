"""`--policy_from`: all that acting needs is taken, or the file is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lightning_rl.cli.command import RunCLI
from lightning_rl.modules.base import RLModule
from lightning_rl.modules.impala import ImpalaModule
from lightning_rl.modules.impala_vae import ImpalaVAEModule, VAEConfig
from lightning_rl.modules.ppo import PPOModule
from lightning_rl.modules.ppo_distill import PPODistillModule
from lightning_rl.modules.simple.module import SimPLeModule
from lightning_rl.modules.simple.world_model import WorldModelConfig
from lightning_rl.runs.checkpoint_files import METADATA, take_policy
from tests.support.runs import fit_args, load
from tests.support.shared_runs import SharedRuns


def saved(module: RLModule, folder: Path) -> Path:
    for parameter in module.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # else an output layer may be zero
    path = folder / "old.ckpt"
    metadata = {"method": module.method({}), "game": "maze", "run_id": "one"}
    torch.save({METADATA: metadata, "state_dict": module.state_dict()}, path)
    return path


def logits(module: RLModule, channels: int) -> torch.Tensor:
    frames = np.random.default_rng(0).integers(0, 256, (2, 64, 64, channels), dtype=np.uint8)
    return module.act(frames, torch.Generator().manual_seed(0), greedy=True).logits


def impala_vae(**options: Any) -> ImpalaVAEModule:
    return ImpalaVAEModule(vae=VAEConfig(latent_size=4, **options))


def stacked_ppo() -> PPOModule:
    return PPOModule(network="two_conv", obs_shape=(64, 64, 12))


def stacked_simple() -> SimPLeModule:
    return SimPLeModule(obs_shape=(64, 64, 12), world_model=WorldModelConfig(hidden=8))


@pytest.mark.parametrize(
    ("old", "new", "channels"),
    [
        (impala_vae, impala_vae, 3),
        (lambda: impala_vae(feed="mean"), lambda: impala_vae(feed="mean"), 3),
        (ImpalaModule, ImpalaModule, 3),
        (PPOModule, PPOModule, 3),
        (PPODistillModule, PPODistillModule, 3),
        (stacked_simple, stacked_ppo, 12),
        (stacked_ppo, stacked_simple, 12),
    ],
)
def test_the_new_agent_acts_as_the_old_one(old: Any, new: Any, channels: int, tmp_path: Path) -> None:
    teacher = old()
    path, student = saved(teacher, tmp_path), new()
    before = logits(student, channels)
    take_policy(path, student, parts=student.policy_parts)
    assert torch.equal(logits(student, channels), logits(teacher, channels))
    assert not torch.equal(logits(student, channels), before)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        (impala_vae, ImpalaModule, "network.lstm.weight_ih_l0"),
        (ImpalaModule, impala_vae, "network.lstm.weight_ih_l0"),
        (impala_vae, lambda: impala_vae(images="rgb"), "vae.encoder.0.weight"),
        (lambda: impala_vae(images="rgb"), impala_vae, "vae.encoder.0.weight"),
        (ImpalaModule, PPOModule, "network."),
        (PPODistillModule, PPOModule, "network.critics.1.bias"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(old: Any, new: Any, named: str, tmp_path: Path) -> None:
    path, student = saved(old(), tmp_path), new()
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    with pytest.raises(ValueError, match=f"policy_from: {path} has {named}"):
        take_policy(path, student, parts=student.policy_parts)
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())


def test_the_command_takes_the_encoder_too(runs: SharedRuns, tmp_path: Path) -> None:
    old = runs.finished("impala_vae")
    args = fit_args(tmp_path / "new", config="impala_vae", policy_from=old / "last.ckpt", seed_everything=7)
    built = RunCLI(args).model.state_dict()
    differing = {
        name.split(".")[0] + "." + name.split(".")[1]
        for name, tensor in load(old)["state_dict"].items()
        if not torch.equal(tensor, built[name])
    }
    assert differing == {"vae.decoder"}
