"""Lightning's private hooks: the only file that uses them, each in a small function.

They are as pytorch-lightning 2.6.6 has them; another version needs another look at each. Some attributes of its Trainer
are public, but set where no type checker sees them: they are here too.
"""

import os
from collections.abc import Callable, Mapping
from typing import Any, cast

from lightning_fabric.utilities.apply_func import convert_tensors_to_scalars
from pytorch_lightning import Callback, LightningDataModule, LightningModule, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.strategies import DDPStrategy, Strategy
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher


def global_seed() -> int:
    """The seed of Lightning's `seed_everything`, which keeps it in the environment only; 0 where it was not called."""
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """The trainer's callbacks, in the order in which they are called."""
    return list(cast(Any, trainer).callbacks)


def is_fast_dev_run(trainer: Trainer) -> bool:
    """Whether the trainer only tries a few batches, after which nothing is to be written."""
    return bool(cast(Any, trainer).fast_dev_run)


def datamodule_of(trainer: Trainer) -> LightningDataModule | None:
    """The data module that the trainer runs with."""
    return cast(LightningDataModule | None, cast(Any, trainer).datamodule)


def attached_trainer(module: LightningModule) -> Trainer | None:
    """The trainer that a module is attached to; the public `module.trainer` raises where there is none."""
    return module._trainer


def saved_loops(trainer: Trainer) -> dict[str, Any]:
    """What a checkpoint would hold of the trainer's loops; the public `save_checkpoint` only writes whole files."""
    return dict(trainer._checkpoint_connector._get_loops_state_dict())


def logged_this_epoch(trainer: Trainer) -> Mapping[str, float]:
    """What was logged in this epoch; the public `logged_metrics` keeps the values of earlier epochs too."""
    return cast(Mapping[str, float], convert_tensors_to_scalars(trainer._logger_connector.metrics["log"]))


def after_signal_handlers(trainer: Trainer, then: Callable[[], None]) -> None:
    """Calls `then` whenever Lightning has set signal handlers of its own; no hook is called right after that."""
    connector: Any = trainer._signal_connector
    set_lightnings = connector.register_signal_handlers

    def set_handlers() -> None:
        set_lightnings()
        then()

    connector.register_signal_handlers = set_handlers


def save_at_epoch_ends(trainer: Trainer) -> None:
    """Lets a `ModelCheckpoint` that was told nothing save at epoch ends, from which alone a run can go on.

    By default it saves when validation ends, which is within the epoch, wherever not every epoch is validated. One that
    monitors something is left as it is: an epoch without validation may have nothing to monitor.
    """
    for callback in (one for one in callbacks_of(trainer) if isinstance(one, ModelCheckpoint)):
        if callback.monitor is None and callback._save_on_train_epoch_end is None:
            callback._save_on_train_epoch_end = True


def find_unused_parameters(strategy: Strategy) -> None:
    """Lets DDP expect that a batch is about a part of the parameters.

    The public option is an argument of `DDPStrategy`, which the Trainer builds by itself for `ddp` and `auto`.
    """
    if isinstance(strategy, DDPStrategy):
        strategy._ddp_kwargs["find_unused_parameters"] = True


def starts_by_multiprocessing(strategy: Strategy) -> bool:
    """Whether ranks are forked or spawned by Python's multiprocessing; no public name tells the launchers apart."""
    return isinstance(strategy.launcher, _MultiProcessingLauncher)


def drop_wandb_option(logger: WandbLogger, name: str) -> None:
    """Leaves out an option that Lightning passes to `wandb.init` in any case; call it before the W&B run starts."""
    logger._wandb_init.pop(name, None)


class StagedCLI(LightningCLI):
    """LightningCLI that builds everything at once but runs its subcommand only when `run_subcommand` is called.

    The public way to keep it from running, `run=False`, leaves the subcommands out. A checkpoint's hyper-parameters do
    not override the command line, for which there is no option, and `set_seed` is the subclass's to define.
    """

    def set_seed(self) -> None:
        """Seeds everything; is called before anything is built."""
        super()._set_seed()

    def run_subcommand(self) -> None:
        """Trains, validates, tests or predicts."""
        super()._run_subcommand(str(self.subcommand))

    @property
    def subcommand_parser(self) -> LightningArgumentParser:
        """The parser of the subcommand's options."""
        return self._parser(self.subcommand)

    def _set_seed(self) -> None:
        self.set_seed()

    def _parse_ckpt_path(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        pass
