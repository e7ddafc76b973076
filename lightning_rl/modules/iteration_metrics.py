"""What of the data module each epoch's row of metrics holds, and the end of a run at its budget."""

import time
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from lightning_rl.data.datamodule import RolloutDataModule
from lightning_rl.distributed import collectives
from lightning_rl.runs.lightning_private import datamodule_of


def data_of(trainer: Trainer) -> RolloutDataModule:
    """The data module that the callbacks work with."""
    data = datamodule_of(trainer)
    if not isinstance(data, RolloutDataModule):
        raise TypeError(f"lightning_rl's callbacks need a RolloutDataModule, found {type(data).__name__}")
    return data


class IterationMetrics(Callback):
    """Adds episodes, env steps and speed to the row that Lightning logs at each epoch end; ends the run.

    The run ends at the first epoch end at or past `total_env_steps`. Where a module learns from other data than a
    `RolloutDataModule`'s, nothing is done.
    """

    def __init__(self) -> None:
        self._env_steps = 0
        self._seconds = 0.0  # spent in collecting and learning since the last row
        self._counted_until = 0.0
        self._row_began = 0.0
        self._collected = 0.0  # the collector's seconds until the last row
        self._saving = self._validating = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends a run that was complete when it was saved."""
        if isinstance(data := datamodule_of(trainer), RolloutDataModule):
            self._env_steps = data.env_steps
            self._collected, self._row_began = data.collector.collecting_seconds, time.perf_counter()
            trainer.should_stop = data.env_steps >= data.total_env_steps

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock; what has passed since the last row went into saving and logging it."""
        self._seconds, self._validating, self._counted_until = 0.0, 0.0, time.perf_counter()
        self._saving = self._counted_until - self._row_began

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the time that the batch took, collecting included."""
        now = time.perf_counter()
        self._seconds, self._counted_until = self._seconds + now - self._counted_until, now

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins to leave time out."""
        self._counted_until = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the time of validation out."""
        now = time.perf_counter()
        self._validating, self._counted_until = self._validating + now - self._counted_until, now

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs, and stops at the budget."""
        data = datamodule_of(trainer)
        if not isinstance(data, RolloutDataModule):
            return
        means = {
            **data.collector.metrics(),
            "time/env_steps_per_second": (data.env_steps - self._env_steps) / self._seconds,
            **self._times(data.collector.collecting_seconds),
        }
        self._env_steps = data.env_steps
        # Lightning averages over all ranks, but one that has finished no episode yet has no return
        pl_module.log_dict(collectives.all_reduce_mean(means), sync_dist=True)
        # float32, Lightning's default, cannot count past 16.7 million; NCCL takes what is on a GPU only
        env_steps = torch.tensor(data.env_steps, dtype=torch.float64, device=pl_module.device)
        pl_module.log("env_steps", env_steps, sync_dist=True)
        if data.env_steps >= data.total_env_steps:
            trainer.should_stop = True

    def _times(self, collected: float) -> dict[str, float]:
        """Seconds since the last row, and their shares; on a GPU, whose work queues, collecting waits for learning."""
        now = time.perf_counter()
        collecting, wall = collected - self._collected, now - self._row_began
        self._collected, self._row_began = collected, now
        spent = {"collecting": collecting, "learning": self._seconds - collecting}
        spent |= {"validating": self._validating, "saving": self._saving}
        return {"time/seconds": wall} | {f"time/{name}": seconds / wall for name, seconds in spent.items()}
