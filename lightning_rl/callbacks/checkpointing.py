"""`last.ckpt` at boundaries, `best.ckpt` when validation says so."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from lightning_rl.distributed import collectives
from lightning_rl.runs.checkpoint_files import BEST, LAST, METADATA, AtomicCheckpointIO
from lightning_rl.runs.lightning_private import is_fast_dev_run, logged_this_epoch
from lightning_rl.runs.metrics_csv import MetricsCSV
from lightning_rl.state import from_plain, to_plain
from lightning_rl.types import State


@dataclass(kw_only=True)
class RunCheckpointState:
    """The best validation return so far."""

    best_return: float | None


class RunCheckpoint(Checkpoint):
    """Saves the run at epoch ends, which are iteration boundaries: nothing is half consumed there.

    Args:
        run_dir: where the files go.
        metadata: method, game, run id and version, kept in the file to refuse it to others.
    """

    saved_as = RunCheckpointState

    def __init__(self, run_dir: Path, metadata: dict[str, str]) -> None:
        self._run_dir = run_dir
        self._metadata = metadata
        self._state = RunCheckpointState(best_return=None)

    def on_save_checkpoint(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        """Adds the metadata to the checkpoint."""
        checkpoint[METADATA] = dict(self._metadata)

    def state_dict(self) -> State:
        """The best validation return so far."""
        return to_plain(self._state)

    def load_state_dict(self, state_dict: State) -> None:
        """Continues the search for the best."""
        self._state = from_plain(self.saved_as, state_dict, self.state_key)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves, after the epoch's row is in metrics.csv; Lightning calls this last of all callbacks."""
        if is_fast_dev_run(trainer):
            return
        row = _log_row(trainer)
        validated, best = row.get("validation/return"), self._state.best_return
        if validated is not None and (best is None or validated > best):
            self._state.best_return = validated
            trainer.save_checkpoint(self._run_dir / BEST, weights_only=False)
            if is_unsaved(trainer, BEST):
                self._state.best_return = best  # which is what best.ckpt still holds
        trainer.save_checkpoint(self._run_dir / LAST, weights_only=False)


def is_unsaved(trainer: Trainer, name: str) -> bool:
    """Whether the newest contents of a checkpoint did not get to the disk; a collective call: one rank writes."""
    io = trainer.strategy.checkpoint_io
    return any(collectives.all_gather(isinstance(io, AtomicCheckpointIO) and name in io.unsaved))


def _log_row(trainer: Trainer) -> Mapping[str, float]:
    """Puts the epoch's row on disk; Lightning would only after this callback, and a kill between would leave a gap."""
    row = logged_this_epoch(trainer)
    for logger in trainer.loggers:
        if isinstance(logger, MetricsCSV):
            logger.log_metrics({**row, "epoch": trainer.current_epoch})
    return row
