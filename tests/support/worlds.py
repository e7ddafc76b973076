"""Small worlds for the methods: frames of 16×16; numbers of steps, environments and actions that all differ."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.utils.data import IterableDataset

from lightning_rl.data.collector import Collector
from lightning_rl.data.procgen import ProcgenDataModule
from lightning_rl.modules.base import Batch, RLModule
from lightning_rl.modules.ppo import PPOBatch, PPOModule
from lightning_rl.modules.ppo_distill import DistillationConfig, DistilledBatch, PPODistillModule
from lightning_rl.protocols import ResumableVectorEnv
from lightning_rl.types import RecurrentInputs, Rollout
from tests.support.toys import CountingVectorEnv

OBS_SHAPE = (16, 16, 3)
NUM_STEPS, NUM_ENVS, NUM_ACTIONS = 5, 3, 7


SIZES: dict[str, Any] = {"num_actions": NUM_ACTIONS, "obs_shape": OBS_SHAPE, "minibatch_size": NUM_STEPS * NUM_ENVS}


def make_module(**options: Any) -> PPOModule:
    """A module whose network starts the same every time; minibatches are whole rollouts of the sizes above."""
    torch.manual_seed(0)
    return PPOModule(**(SIZES | options))


def make_distilled(*, distillation: dict[str, Any] | None = None, **options: Any) -> PPODistillModule:
    """One with distillation, whose teacher does not drop out unless asked to."""
    torch.manual_seed(0)
    config = DistillationConfig(**({"dropout": 0.0} | (distillation or {})))
    return PPODistillModule(distillation=config, **(SIZES | options))


def draw_rollout(num_critics: int, *, seed: int = 0, num_steps: int = NUM_STEPS) -> Rollout:
    """Random everything. Environment 1 ends an episode at step 1, environment 2 at step 3; environment 0 ends none."""
    generator = np.random.default_rng(seed)
    shape = (num_steps, NUM_ENVS)
    terminated = np.zeros(shape, dtype=np.bool_)
    terminated[1, 1] = terminated[3, 2] = True
    return Rollout(
        actions=torch.from_numpy(generator.integers(NUM_ACTIONS, size=shape)),
        rewards=torch.from_numpy(generator.normal(size=shape)).float(),
        terminated=torch.from_numpy(terminated),
        behavior_logits=torch.from_numpy(generator.normal(size=(*shape, NUM_ACTIONS))).float(),
        behavior_values=torch.from_numpy(generator.normal(size=(*shape, num_critics))).float(),
        obs=torch.from_numpy(draw_frames(num_steps + 1, NUM_ENVS, seed=seed)),
        recurrent_inputs=RecurrentInputs.initial(NUM_ENVS),
    )


def draw_frames(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    """Frames of noise."""
    return np.random.default_rng(seed).integers(256, size=(*shape, *OBS_SHAPE), dtype=np.uint8)


def generator(seed: int = 0) -> torch.Generator:
    """A stream of its own."""
    return torch.Generator().manual_seed(seed)


def whole_batch(module: PPOModule, rollout: Rollout) -> PPOBatch:
    """All samples of the rollout, in time-major order."""
    trajectories = module.trajectories(rollout, {})
    return trajectories.minibatch(torch.arange(rollout.actions.numel()))


def whole_distilled_batch(module: PPODistillModule, rollout: Rollout) -> DistilledBatch:
    """All samples of the rollout, in time-major order, with both reward streams."""
    batch = whole_batch(module, rollout)
    if not isinstance(batch, DistilledBatch):
        raise TypeError(f"expected a DistilledBatch, found {type(batch).__name__}")
    return batch


def make_collector(env: ResumableVectorEnv, *, num_steps: int = NUM_STEPS) -> Collector:
    """Collects rollouts of the size above."""
    return Collector(env, num_steps=num_steps, seed=0)


def make_trainer(**options: Any) -> Trainer:
    """A real one that writes nothing."""
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "reload_dataloaders_every_n_epochs": 1,  # as the command has it
    }
    return Trainer(**({"max_epochs": 1} | quiet | options))


def fit(module: LightningModule, batches: Iterable[Any], **options: Any) -> Trainer:
    """Trains on the batches, an epoch unless asked for more."""
    trainer = make_trainer(limit_val_batches=0, **options)
    trainer.fit(module, train_dataloaders=batches, val_dataloaders=[])  # said, or Lightning warns that there are none
    return trainer


class ToyData(ProcgenDataModule):
    """The data module with toys for games."""

    num_actions = NUM_ACTIONS

    def games(self, num_envs: int, levels: tuple[int, int], seed: int) -> Any:
        lengths = [2] if levels == self.level_sets["full_distribution"] else [3]
        return CountingVectorEnv(num_envs, lengths, obs_shape=OBS_SHAPE, num_actions=NUM_ACTIONS)

    def training_games(self) -> Any:
        return lambda num_envs, seed: self.games(num_envs, self.level_sets["train_levels"], seed)


def toy_data(**options: Any) -> ToyData:
    """Few of them. Rewards are 100 a step and the action: training episodes of 3 steps earn 300 to 318."""
    sizes: dict[str, Any] = {"num_envs": NUM_ENVS, "num_steps": NUM_STEPS, "return_scaling": False}
    episodes = {"validation_episodes": 2, "test_episodes": 2}
    return ToyData(**(sizes | episodes | options))


class Batches(IterableDataset[Any]):
    """Batches that are there already. Lightning would take a list for a list of loaders."""

    def __init__(self, *batches: Any) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._batches)


class OnGradients(Callback):
    """Calls back with the module when its gradients are complete and not clipped yet."""

    def __init__(self, function: Callable[[LightningModule], None]) -> None:
        self._function = function

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self._function(pl_module)


def learn_once(module: RLModule, batch: Batch, **options: Any) -> tuple[dict[str, Tensor | None], dict[str, Tensor]]:
    """One optimiser step through the Trainer; the gradients before clipping by parameter, and what was logged."""
    gradients: dict[str, Tensor | None] = {}

    def keep(learner: LightningModule) -> None:
        for name, parameter in learner.named_parameters():
            gradients[name] = None if parameter.grad is None else parameter.grad.clone()

    torch.manual_seed(1)
    trainer = fit(module, Batches(batch), callbacks=[OnGradients(keep)], **options)
    return gradients, dict(trainer.callback_metrics)
