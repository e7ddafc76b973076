"""Signals that ask to stop, and the end of a run at the next boundary."""

import os
import signal
import time
from functools import partial
from types import FrameType

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn

from lightning_rl.distributed import collectives
from lightning_rl.runs.lightning_private import after_signal_handlers, callbacks_of
from lightning_rl.runs.signals import SIGNALS, STOPPED, Interrupted, SignalWatcher, end_at_signals


def is_stopped_by_signal(trainer: Trainer) -> bool:
    """Whether the run was asked to stop; who asked waits for the process to end."""
    return any(isinstance(c, StopAtBoundary) and c.received is not None for c in callbacks_of(trainer))


_ECHO_SECONDS = 1.0
"""A repeat within this time counts as the same signal: launchers forward what a scheduler sends to all processes."""


class StopAtBoundary(Callback):
    """Turns SIGTERM and SIGUSR1 into: finish this epoch, save, and end. One that comes seconds later ends at once.

    Where nothing is trained there is nothing to save, and the first one ends the process, with the same status.

    Args:
        signal_watcher: has answered signals until then.

    Attributes:
        received: number of the signal, or None; once all ranks have agreed to stop, of one that any of them received.
    """

    def __init__(self, signal_watcher: SignalWatcher | None = None) -> None:
        self.received: int | None = None
        self._signal_watcher = signal_watcher or SignalWatcher()
        self._received_at: float | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Takes the signals over from Lightning, as soon as it has set handlers of its own.

        Its handlers would save, broadcast or requeue in mid-epoch, and end the process with status 0.
        """

        def set_handlers() -> None:
            if stage == TrainerFn.FITTING:
                self._note_signals(trainer)
            else:
                end_at_signals(partial(_end_launched, trainer))

        after_signal_handlers(trainer, set_handlers)

    def _note_signals(self, trainer: Trainer) -> None:
        def note(number: int, _frame: FrameType | None) -> None:
            now = time.monotonic()
            if self._received_at is None:
                self.received, self._received_at = number, now
            elif now - self._received_at > _ECHO_SECONDS:
                _end_launched(trainer, signal.SIGKILL)
                os._exit(STOPPED)

        self._signal_watcher.stop()
        for number in SIGNALS:
            signal.signal(number, note)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops, if any rank was asked to."""
        received = [number for number in collectives.all_gather(self.received) if number is not None]
        if received:
            self.received = received[0]
            trainer.should_stop = True

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Ends the other ranks at Ctrl-C, before they report that this one is gone."""
        if isinstance(exception, Interrupted):
            _end_launched(trainer, signal.SIGKILL)


def _end_launched(trainer: Trainer, number: int) -> None:
    """Sends a signal to the other ranks, where this process has started them."""
    if trainer.strategy.launcher is not None:
        trainer.strategy.launcher.kill(number)
