"""`last.ckpt` at boundaries, `best.ckpt` when validation says so."""

from pathlib import Path
from typing import Any

from lightning_fabric.utilities.apply_func import convert_tensors_to_scalars
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from lightning_rl.distributed import collectives
from lightning_rl.runs.checkpoint_files import BEST, LAST, METADATA, AtomicCheckpointIO
from lightning_rl.runs.metrics_csv import MetricsCSV
from lightning_rl.state import validate_state


class RunCheckpoint(Checkpoint):
    """Saves the run at epoch ends, which are iteration boundaries: nothing is half consumed there.

    Args:
        run_dir: where the files go.
        metadata: method, game, run id and version, kept in the file to refuse it to others.
    """

    def __init__(self, run_dir: Path, metadata: dict[str, str]) -> None:
        self._run_dir = run_dir
        self._metadata = metadata
        self._best_return: float | None = None

    def on_save_checkpoint(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        checkpoint: dict[str, Any],
    ) -> None:
        """Says in the file whose it is."""
        checkpoint[METADATA] = dict(self._metadata)

    def state_dict(self) -> dict[str, Any]:
        """The best validation return so far."""
        return {"best_return": self._best_return}

    def check_state(self, state_dict: dict[str, Any]) -> None:
        """Refuses what is no return.

        Raises:
            ValueError: says what it must be.
        """
        validate_state(state_dict, {"best_return": float | None}, f"callbacks.{self.state_key}")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continues the search for the best."""
        self._best_return = state_dict["best_return"]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Saves, once metrics.csv has what led there; Lightning calls this last of all callbacks."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        _log_row(trainer)
        validated = trainer.callback_metrics.get("validation/return") if _just_validated(trainer) else None
        if validated is not None and (self._best_return is None or float(validated) > self._best_return):
            before, self._best_return = self._best_return, float(validated)
            trainer.save_checkpoint(self._run_dir / BEST, weights_only=False)
            if is_unsaved(trainer, BEST):
                self._best_return = before  # which is what best.ckpt still holds
        trainer.save_checkpoint(self._run_dir / LAST, weights_only=False)


def is_unsaved(trainer: Trainer, name: str) -> bool:
    """Whether the newest contents of a checkpoint did not get to the disk; a collective call: one rank writes."""
    io = trainer.strategy.checkpoint_io
    return any(collectives.all_gather(isinstance(io, AtomicCheckpointIO) and name in io.unsaved))


def _log_row(trainer: Trainer) -> None:
    """Puts the epoch's row on disk; Lightning would only after this callback, and a kill between would leave a gap."""
    row = convert_tensors_to_scalars(trainer._logger_connector.metrics["log"])
    for logger in trainer.loggers:
        if isinstance(logger, MetricsCSV):
            logger.log_metrics({**row, "epoch": trainer.current_epoch})


def _just_validated(trainer: Trainer) -> bool:
    every = trainer.check_val_every_n_epoch
    return every is not None and (trainer.current_epoch + 1) % every == 0
