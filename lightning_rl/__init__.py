"""Reinforcement learning on Procgen and Atari as LightningModules: true to the papers, resumed to the same bits."""

from lightning_rl.data.atari import AtariDataModule
from lightning_rl.data.procgen import ProcgenDataModule
from lightning_rl.modules.impala_vae import Autoencoding, ImpalaVAEModule, SurpriseMinimising
from lightning_rl.modules.ppo_distill import Distillation, PPODistillModule
from lightning_rl.modules.simple import SimPLeModule
from lightning_rl.modules.world_model import WorldModelOptions
from lightning_rl.version import __version__

__all__ = [
    "AtariDataModule",
    "Autoencoding",
    "Distillation",
    "ImpalaVAEModule",
    "PPODistillModule",
    "ProcgenDataModule",
    "SimPLeModule",
    "SurpriseMinimising",
    "WorldModelOptions",
    "__version__",
]
