"""When a run validates: not so often that it takes more than about a tenth of the time."""

from dataclasses import dataclass
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn

from lightning_rl.distributed import collectives
from lightning_rl.modules.base import RLModule
from lightning_rl.modules.iteration_metrics import data_of
from lightning_rl.state import from_plain, to_plain
from lightning_rl.types import Episodes, State

FIRST_EPOCH = 10
"""Epochs before the first validation, whose length is not known yet."""

PLAYED_PER_TRAINED = 4
"""Played env steps that take as long as a trained one.

A trained step is acted on once and goes once through the network forwards and backwards, which takes as long as three
forward passes. PPO's further epochs would make it more; but the last episodes of a validation are played by few
environments, for which the network is less efficient.
"""

PLAYED_SHARE = 0.1
"""Share of a run's work that validation may take."""


@dataclass(kw_only=True)
class ValidationPaceState:
    """The env steps that the last validation played, and those that were trained until then; None before the first."""

    played: int | None
    trained: int


class ValidationPace(Callback):
    """Lets validation come at the first epoch end where it takes at most a tenth of the work since the last one.

    A method may say instead when it is due, as SimPLe does, whose passes take their time elsewhere than in env steps.

    Work is counted in env steps, not in seconds: a resumed run validates where an unbroken one does, and so do all
    ranks. The next validation is expected to be as long as the last one.

    Args:
        decides: False only counts, and leaves `check_val_every_n_epoch` to the Trainer.
    """

    saved_as = ValidationPaceState

    def __init__(self, *, decides: bool = True) -> None:
        self._decides = decides
        self._state = ValidationPaceState(played=None, trained=0)
        self._played = 0

    def state_dict(self) -> State:
        """What the last validation played, and when it was."""
        return to_plain(self._state)

    def load_state_dict(self, state_dict: State) -> None:
        """Counts on from there."""
        self._state = from_plain(self.saved_as, state_dict, self.state_key)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts validation off until the epoch's end."""
        self._validate(trainer, False)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Decides at the epoch's end; Lightning asks right after this hook."""
        if trainer.is_last_batch:
            own = pl_module.validation_is_due if isinstance(pl_module, RLModule) else None
            self._validate(trainer, self._is_due(trainer) if own is None else own)

    def _is_due(self, trainer: Trainer) -> bool:
        if self._state.played is None:
            return trainer.current_epoch + 1 >= FIRST_EPOCH
        work = PLAYED_PER_TRAINED * (data_of(trainer).env_steps - self._state.trained)
        return self._state.played <= PLAYED_SHARE * (self._state.played + work)

    def _validate(self, trainer: Trainer, due: bool) -> None:
        if self._decides:  # Lightning validates in epochs whose number, from one on, this divides
            trainer.check_val_every_n_epoch = trainer.current_epoch + (1 if due else 2)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts counting."""
        self._played = 0

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Episodes,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Counts the env steps of a level set."""
        self._played += int(batch.lengths.sum())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remembers the count of all ranks."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            played = sum(collectives.all_gather(self._played))
            self._state = ValidationPaceState(played=played, trained=data_of(trainer).env_steps)
