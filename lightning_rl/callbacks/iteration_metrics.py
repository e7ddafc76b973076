"""The row of metrics that each epoch logs, and the end of a run at its budget."""

import time

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from lightning_rl.data.datamodule import RolloutDataModule
from lightning_rl.distributed import collectives
from lightning_rl.modules.base import RLModule
from lightning_rl.runs.lightning_private import datamodule_of


def data_of(trainer: Trainer) -> RolloutDataModule:
    """The data module that the callbacks work with."""
    data = datamodule_of(trainer)
    if not isinstance(data, RolloutDataModule):
        raise TypeError(f"lightning_rl's callbacks need a RolloutDataModule, found {type(data).__name__}")
    return data


class IterationMetrics(Callback):
    """Adds episodes, env steps, speed and validation to the row that Lightning logs at each epoch end; ends the run.

    The run ends at the first epoch end at or past `total_env_steps`.
    """

    def __init__(self) -> None:
        self._env_steps = 0
        self._time = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock; a run that was complete when it was saved ends here."""
        data = data_of(trainer)
        self._env_steps, self._time = data.env_steps, time.perf_counter()
        trainer.should_stop = data.env_steps >= data.total_env_steps

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs, and stops at the budget."""
        data = data_of(trainer)
        now = time.perf_counter()
        means = {
            **data.collector.metrics(),
            "time/env_steps_per_second": (data.env_steps - self._env_steps) / (now - self._time),
        }
        if isinstance(pl_module, RLModule):
            means |= pl_module.validation_returns
            pl_module.validation_returns = {}
        self._env_steps, self._time = data.env_steps, now
        # Lightning averages over all ranks, but one that has finished no episode yet has no return
        pl_module.log_dict(collectives.all_reduce_mean(means), sync_dist=True)
        # float32, Lightning's default, cannot count past 16.7 million
        pl_module.log("env_steps", torch.tensor(data.env_steps, dtype=torch.float64), sync_dist=True)
        if data.env_steps >= data.total_env_steps:
            trainer.should_stop = True
