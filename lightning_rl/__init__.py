"""Reinforcement learning on Procgen and Atari as LightningModules: true to the papers, resumed to the same bits."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lightning_rl.version import __version__

if TYPE_CHECKING:
    from lightning_rl.cli.play import play
    from lightning_rl.data.atari import AtariDataModule
    from lightning_rl.data.datamodule import RolloutDataModule
    from lightning_rl.data.procgen import ProcgenDataModule
    from lightning_rl.modules.base import RLModule
    from lightning_rl.modules.impala import ImpalaModule
    from lightning_rl.modules.impala_vae import ImpalaVAEModule, SurpriseConfig, VAEConfig
    from lightning_rl.modules.policy_distill import PolicyDistillModule
    from lightning_rl.modules.ppo import PPOModule
    from lightning_rl.modules.ppo_distill import DistillationConfig, PPODistillModule
    from lightning_rl.modules.recurrent_policy_distill import RecurrentPolicyDistillModule
    from lightning_rl.modules.simple.module import SimPLeModule
    from lightning_rl.modules.simple.world_model import WorldModelConfig
    from lightning_rl.policies.folder import load_policy

# imported when asked for: a process that plays games needs no Lightning, and `doctor` must start where it is missing
_HOMES = {
    "AtariDataModule": "data.atari",
    "DistillationConfig": "modules.ppo_distill",
    "ImpalaModule": "modules.impala",
    "ImpalaVAEModule": "modules.impala_vae",
    "PolicyDistillModule": "modules.policy_distill",
    "PPODistillModule": "modules.ppo_distill",
    "PPOModule": "modules.ppo",
    "ProcgenDataModule": "data.procgen",
    "RLModule": "modules.base",
    "RecurrentPolicyDistillModule": "modules.recurrent_policy_distill",
    "RolloutDataModule": "data.datamodule",
    "SimPLeModule": "modules.simple.module",
    "SurpriseConfig": "modules.impala_vae",
    "VAEConfig": "modules.impala_vae",
    "WorldModelConfig": "modules.simple.world_model",
    "load_policy": "policies.folder",
    "play": "cli.play",
}

__all__ = [
    "AtariDataModule",
    "DistillationConfig",
    "ImpalaModule",
    "ImpalaVAEModule",
    "PPODistillModule",
    "PPOModule",
    "PolicyDistillModule",
    "ProcgenDataModule",
    "RLModule",
    "RecurrentPolicyDistillModule",
    "RolloutDataModule",
    "SimPLeModule",
    "SurpriseConfig",
    "VAEConfig",
    "WorldModelConfig",
    "__version__",
    "load_policy",
    "play",
]


if not TYPE_CHECKING:  # or every misspelt name would have a type

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__} has no attribute {name}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

    def __dir__() -> list[str]:
        return __all__
