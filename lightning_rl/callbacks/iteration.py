"""The one row of metrics that an iteration logs, the budget, and signals that ask to stop."""

import os
import random
import signal
import time
from functools import partial
from types import FrameType
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from lightning_rl import ranks
from lightning_rl.data.datamodule import RolloutDataModule
from lightning_rl.lifetime import SIGNALS, STOPPED, Watchman, end_at_signals
from lightning_rl.modules.base import RLModule
from lightning_rl.schema import Schema, require
from lightning_rl.types import UsageError


def data_of(trainer: Trainer) -> RolloutDataModule:
    """The data module that the callbacks work with."""
    data = trainer.datamodule  # type: ignore[attr-defined]  # set by fit
    if not isinstance(data, RolloutDataModule):
        raise TypeError(f"lightning_rl's callbacks need a RolloutDataModule, found {type(data).__name__}")
    return data


def is_stopped_by_signal(trainer: Trainer) -> bool:
    """Whether the run was asked to stop; who asked waits for the process to end."""
    return any(isinstance(c, StopAtBoundary) and c.received is not None for c in trainer.callbacks)  # type: ignore[attr-defined]


class SameStart(Callback):
    """Ends a run whose processes begin with different things; each looked for itself, maybe on a disk of its own.

    Args:
        start: what this process begins with.
    """

    def __init__(self, start: str) -> None:
        self._start = start

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Compares, once the processes have found each other.

        Raises:
            UsageError: on all of them; it names the first that differs.
        """
        starts = ranks.gathered(self._start)
        for rank, start in enumerate(starts):
            if start != starts[0]:
                raise UsageError(
                    f"run_dir: all ranks must begin with the same, found {starts[0]} on rank 0 and {start} on rank"
                    f" {rank}; give a folder that they share, or a checkpoint that all can read"
                )


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
        # a rank whose first episode goes on has no return yet, and what Lightning averages all must have
        pl_module.log_dict(ranks.mean(means), sync_dist=True)
        # float32, Lightning's default, cannot count past 16.7 million
        pl_module.log("env_steps", torch.tensor(data.env_steps, dtype=torch.float64), sync_dist=True)
        if data.env_steps >= data.total_env_steps:
            trainer.should_stop = True


class RandomStates(Callback):
    """Saves and restores each process's own random streams, which no checkpoint of Lightning's holds.

    In a new run they are the same on all ranks until training starts, so that weights are; then each has its own.

    Python's and NumPy's are drawn from by nothing here, but a user's callback may.
    """

    def __init__(self) -> None:
        self._restored: dict[str, Any] = {}

    def state_dict(self) -> dict[str, Any]:
        """The states of torch's CPU and CUDA generators, of Python's and of NumPy's; a collective call."""
        first, *others = ranks.gathered(_random_states())
        return {**first, "others": others} if others else first

    def check_state(self, state_dict: dict[str, Any]) -> None:
        """Refuses what generators would not take.

        Raises:
            ValueError: names the key.
        """
        key = f"callbacks.{self.state_key}"
        for states in [state_dict, *state_dict.get("others", [])]:
            require(states, _STATES, key)
            if not 0 <= states["numpy"][2] <= len(states["numpy"][1]):  # NumPy would read beyond its end
                raise ValueError(f"{key}.numpy.2 must be a position in the stream, found {states['numpy'][2]}")
            try:
                _restore_python(states["python"], random.Random())
                torch.Generator().set_state(states["torch"])
            except (ValueError, OverflowError, RuntimeError) as error:
                raise ValueError(f"{key} must be the states of generators: {error}") from error

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keeps the states until training starts: everything before may still draw from the streams."""
        self._restored = state_dict

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the streams where they were."""
        first = {key: state for key, state in self._restored.items() if key != "others"}
        saved = [first, *self._restored.get("others", [])] if first else []
        if len(saved) == trainer.world_size:
            _restore_random_states(saved[trainer.global_rank])
        elif trainer.global_rank:
            torch.manual_seed(hash((torch.initial_seed(), trainer.global_rank)))


def _random_states() -> dict[str, Any]:
    version, internal, gauss = random.getstate()
    legacy: Any = np.random.get_state()  # noqa: NPY002  # the legacy stream is what others draw from
    name, keys, position, has_gauss, cached = legacy
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
        "python": [version, list(internal), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached],
    }


def _restore_random_states(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["torch"].cpu())
    if len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])
    _restore_python(states["python"], random)
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))  # noqa: NPY002


def _restore_python(state: list[Any], generator: Any) -> None:
    version, internal, gauss = state
    generator.setstate((version, tuple(internal), gauss))


_STATES: Schema = {
    "torch": torch.get_rng_state(),
    "cuda": [Tensor],
    "python": (int, (int,) * len(random.getstate()[1]), float | None),
    "numpy": (str, torch.empty(624, dtype=torch.int64), int, int, float),
}
"""Of one process."""


_ECHO_SECONDS = 1.0
"""A launcher passes on the signal that a scheduler has sent to all processes: it comes twice and is meant once."""


class StopAtBoundary(Callback):
    """Turns SIGTERM and SIGUSR1 into: finish this epoch, save, and end. One that comes seconds later ends at once.

    Where nothing is trained there is nothing to save, and the first one ends the process, with the same status.

    Args:
        watchman: has answered signals until then.

    Attributes:
        received: number of the signal, or None; once all ranks have agreed to stop, of one that any of them received.
    """

    def __init__(self, watchman: Watchman | None = None) -> None:
        self.received: int | None = None
        self._watchman = watchman or Watchman()
        self._received_at: float | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Takes the signals over from Lightning, as soon as it has set handlers of its own.

        Its handlers would save, broadcast or requeue in mid-epoch, and end the process with status 0.
        """
        connector = trainer._signal_connector
        set_lightnings = connector.register_signal_handlers

        def set_handlers() -> None:
            set_lightnings()
            if stage == TrainerFn.FITTING:
                self._note_signals(trainer)
            else:
                end_at_signals(partial(_end_launched, trainer))

        connector.register_signal_handlers = set_handlers  # type: ignore[method-assign]  # no hook is called right after it

    def _note_signals(self, trainer: Trainer) -> None:
        def note(number: int, _frame: FrameType | None) -> None:
            now = time.monotonic()
            if self._received_at is None:
                self.received, self._received_at = number, now
            elif now - self._received_at > _ECHO_SECONDS:
                _end_launched(trainer, signal.SIGKILL)
                os._exit(STOPPED)

        self._watchman.stop()
        for number in SIGNALS:
            signal.signal(number, note)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops, if any rank was asked to."""
        received = [number for number in ranks.gathered(self.received) if number is not None]
        if received:
            self.received = received[0]
            trainer.should_stop = True


def _end_launched(trainer: Trainer, number: int) -> None:
    """Sends a signal to the other ranks, where this process has started them."""
    if trainer.strategy.launcher is not None:
        trainer.strategy.launcher.kill(number)
