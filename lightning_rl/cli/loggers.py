"""Where loggers write: all of Lightning's, alone or in a list, into the run folder, and none into its own files."""

import os
from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jsonargparse import Namespace, dict_to_namespace
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.loggers import CometLogger, CSVLogger, MLFlowLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from lightning_rl.errors import UsageError
from lightning_rl.runs import checkpoint_files
from lightning_rl.runs.wandb_key import can_log_in
from lightning_rl.runs.wandb_run import silent_server

_OWN_CHECKPOINTS = (checkpoint_files.LAST, checkpoint_files.PREVIOUS, checkpoint_files.BEST)


def place_loggers(trainer: Namespace, *, run_dir: Path, run_id: str) -> list[str]:
    """Sends the loggers of a config into the run folder, and W&B where `WANDB_MODE` says.

    Args:
        trainer: the options; `logger` is changed in place.
        run_dir: the run folder.
        run_id: of the W&B run, unless the config has one.

    Returns:
        What the user should be told.

    Raises:
        UsageError: W&B is to log online and cannot log in.
    """
    if trainer.logger is True:
        trainer.logger = _lightnings_own()
    several = isinstance(trainer.logger, list)
    loggers = [logger for logger in (trainer.logger if several else [trainer.logger]) if _is_wanted(logger)]
    told: list[str] = []
    for logger in loggers:
        if isinstance(logger, Namespace):
            told += _placed(logger, run_dir)
            if issubclass(_class_of(logger), WandbLogger):
                told += _one_wandb_run(logger.init_args, run_id)
    trainer.logger = loggers if several and loggers else loggers[0] if loggers else False
    return list(dict.fromkeys(told))


def _lightnings_own() -> Namespace:
    name = "TensorBoardLogger" if find_spec("tensorboard") or find_spec("tensorboardX") else "CSVLogger"
    own = {"class_path": f"pytorch_lightning.loggers.{name}", "init_args": {"save_dir": "."}}
    logger: Namespace = dict_to_namespace(own)
    return logger


def _is_wanted(logger: Any) -> bool:
    disabled = os.environ.get("WANDB_MODE") == "disabled"
    return not (disabled and isinstance(logger, Namespace) and issubclass(_class_of(logger), WandbLogger))


def _class_of(logger: Namespace) -> type:
    module, _, name = logger.class_path.rpartition(".")
    found: type = getattr(import_module(module), name)
    return found


def _placed(logger: Namespace, run_dir: Path) -> list[str]:
    kind = _class_of(logger)
    if issubclass(kind, CometLogger):
        logger.dict_kwargs = {"offline_directory": None} | dict(logger.get("dict_kwargs") or {})
    told = []
    for options in (logger.init_args, logger.get("dict_kwargs") or {}):
        for name in ("save_dir", "offline_directory"):
            if name in options:
                default = "mlruns" if issubclass(kind, MLFlowLogger) else "."
                given = default if options[name] in (None, ".") else options[name]
                options[name], inside = _in_run_folder(str(given), run_dir)
                if not inside:
                    told.append(f"trainer.logger: {kind.__name__} writes to {options[name]}, outside of the run folder")
    return told


def _in_run_folder(given: str, run_dir: Path) -> tuple[str, bool]:
    """Where a logger that was told a folder writes, and whether that is in the run folder."""
    if "://" in given:
        return given, False
    place, home = Path(os.path.expanduser(given)), run_dir.resolve()
    if place.resolve().is_relative_to(home):
        return str(place), True
    if place.is_absolute() or not (run_dir / place).resolve().is_relative_to(home):
        return str(place), False
    return str(run_dir / place), True


def _one_wandb_run(options: Namespace, run_id: str) -> list[str]:
    """Lets a resumed run continue the W&B run, offline where there is no server."""
    if options.get("id") is None and options.get("version") is None:
        options.id = run_id
    if options.get("name") is None:
        options.name = run_id
    if mode := os.environ.get("WANDB_MODE"):
        options.offline = mode != "online"
    if options.get("offline") or getattr(rank_zero_only, "rank", 0) != 0:
        return []
    if (server := silent_server()) is None:
        if not can_log_in():
            raise UsageError("trainer.logger: W&B is to log online and has no key: wandb login, or WANDB_MODE=offline")
        return []
    options.offline = True
    return [f"W&B's {server} does not answer: the run is logged offline, for `wandb sync`"]


def check_one_writer(run_dir: Path, *, loggers: Iterable[Any], callbacks: Iterable[Callback]) -> None:
    """Refuses loggers and callbacks that would write the run's own files.

    Args:
        run_dir: the run folder.
        loggers: of the config.
        callbacks: of the config.

    Raises:
        UsageError: names the file.
    """
    for logger in loggers:
        path = run_dir / "metrics.csv"
        if isinstance(logger, CSVLogger) and Path(logger.log_dir, path.name).resolve() == path.resolve():
            raise UsageError(
                f"trainer.logger: CSVLogger must not write the run's own {path}; give it a name or another save_dir"
            )
    for callback in callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is not None:
            names = [f"{callback.filename}.ckpt", *([checkpoint_files.LAST] if callback.save_last else [])]
            own = [name for name in names if name in _OWN_CHECKPOINTS]
            if own and Path(callback.dirpath).resolve() == run_dir.resolve():
                raise UsageError(
                    f"trainer.callbacks: ModelCheckpoint must not write the run's own {run_dir / own[0]}; give it"
                    " another dirpath or filename"
                )
