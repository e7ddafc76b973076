"""The run folder's config.yaml, and metrics.csv cut back to the checkpoint that is continued."""

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.cli import LightningArgumentParser
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_info

from lightning_rl.callbacks.graceful_stop import is_stopped_by_signal
from lightning_rl.modules.iteration_metrics import data_of
from lightning_rl.runs.atomic_files import atomic_write, remove_partial
from lightning_rl.runs.lightning_private import is_fast_dev_run
from lightning_rl.runs.metrics_csv import MetricsCSV
from lightning_rl.runs.wandb_run import end_run, use_env_steps_axis


class RunFolder(Callback):
    """Writes `config.yaml`, and lets the loggers continue where the run does.

    Args:
        run_dir: the run folder.
        config: the resolved config of `fit`.
        parser: serializes the config.
    """

    def __init__(self, run_dir: Path, *, config: Namespace, parser: LightningArgumentParser) -> None:
        self._path = run_dir / "config.yaml"
        self._config = config.clone()
        for key in ("run_dir", "ckpt_path"):  # the file describes the run, not where it lives
            if key in self._config:
                self._config[key] = None
        self._parser = parser

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Removes partial files of an earlier process of this run that was killed."""
        if stage != "fit":
            return
        run_dir = self._path.parent
        remove_partial(run_dir / "replay" / f"rank{trainer.global_rank}")
        if trainer.is_global_zero:
            remove_partial(run_dir)
            remove_partial(run_dir / "media")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the config, logs what differs from the continued run's, and passes it to W&B."""
        if not trainer.is_global_zero or is_fast_dev_run(trainer):
            return
        text = self._parser.dump(self._config, skip_none=False)
        before = self._path.read_bytes() if self._path.exists() else None
        if before is not None:
            self._log_differences(before, text)
        if before != text.encode():  # an unchanged config must not need disk space
            with atomic_write(self._path) as file:
                file.write(text.encode())
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                use_env_steps_axis(logger)
                logger.experiment.config.update(yaml.safe_load(text), allow_val_change=True)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Cuts metrics.csv back to the checkpoint, since a killed run may have logged more than it saved."""
        for logger in trainer.loggers:
            if isinstance(logger, MetricsCSV):
                logger.truncate_after(data_of(trainer).env_steps, epochs=trainer.current_epoch)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ends the W&B run."""
        for logger in trainer.loggers:
            if stage == "fit" and isinstance(logger, WandbLogger):
                end_run(logger, preempted=is_stopped_by_signal(trainer))

    def _log_differences(self, before: bytes, after: str) -> None:
        try:
            old = _flat(yaml.safe_load(before.decode()))
        except (ValueError, yaml.YAMLError):
            rank_zero_info(f"{self._path} is unreadable and is replaced")
            return
        new = _flat(yaml.safe_load(after))
        for key in sorted(old.keys() | new.keys()):
            if old.get(key) != new.get(key):
                rank_zero_info(f"{key} was {old.get(key)} when this run was last started and is {new.get(key)} now")


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(config, dict) or not config:
        return {prefix.rstrip("."): config}
    return {key: value for name, inner in config.items() for key, value in _flat(inner, f"{prefix}{name}.").items()}
