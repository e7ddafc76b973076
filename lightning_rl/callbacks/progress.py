"""Progress of training: a bar on a terminal, plain lines in a log file."""

import sys
import time
from contextlib import suppress
from typing import Any, NamedTuple, Protocol, runtime_checkable

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from typing_extensions import override


@runtime_checkable
class CountsEnvSteps(Protocol):
    """Data module whose env steps the bar can show; otherwise it shows logged numbers and no total."""

    env_steps: int
    total_env_steps: int


class Standing(NamedTuple):
    """The newest numbers of a run, None if there is none yet, and the phase of a method that has phases."""

    env_steps: int
    total_env_steps: int | None = None
    episode_return: float | None = None
    validation_return: float | None = None
    env_steps_per_second: float | None = None
    phase: str = ""

    @property
    def seconds_left(self) -> float | None:
        """Seconds left at the present speed; None if unknown, or if nothing is left.

        It is unknown for methods with phases, because most phases take no env steps.
        """
        if self.phase or self.total_env_steps is None or not self.env_steps_per_second:
            return None
        if self.env_steps >= self.total_env_steps:
            return None
        return (self.total_env_steps - self.env_steps) / self.env_steps_per_second


class EnvStepsProgress(ProgressBar):
    """Shows env steps, return, speed and time left while training.

    Metrics are read at the start of the next epoch and at the end of training, because Lightning calls callbacks before
    the module at `on_train_epoch_end`, so they do not see what the module logs there. Between epochs, which can take
    minutes, the data module's env steps keep the bar moving.

    Args:
        interval_seconds: least time between two lines if stderr is no terminal. The last line is always printed.
    """

    def __init__(self, interval_seconds: float | int = 30) -> None:
        super().__init__()
        self.interval_seconds = interval_seconds
        self._enabled = True
        self._on_terminal = False
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._metrics: dict[str, float] = {}
        self._started_at = self._shown_at = time.monotonic()

    @override
    def disable(self) -> None:
        """Hides progress."""
        self._enabled = False
        self._close()

    @override
    def enable(self) -> None:
        """Shows progress again."""
        self._enabled = True

    @override
    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock."""
        self._started_at = self._shown_at = time.monotonic()
        self._metrics = {}
        console = Console(stderr=True)
        self._on_terminal = console.is_terminal and not console.is_dumb_terminal

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Reads the metrics of the last epoch."""
        self._read(trainer)
        self._show(trainer, pl_module)

    @override
    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Shows the env steps collected so far."""
        self._show(trainer, pl_module)

    @override
    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Shows the final numbers."""
        self._read(trainer)
        self._show(trainer, pl_module, final=True)
        self._close()

    @override
    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Restores the terminal."""
        self._close()

    @override
    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Restores the terminal."""
        self._close()

    def _read(self, trainer: pl.Trainer) -> None:
        """Copies the metrics, once an epoch only, because reading them waits for the accelerator."""
        if self._enabled:
            self._metrics = {key: value.item() for key, value in trainer.callback_metrics.items()}

    def _show(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *, final: bool = False) -> None:
        if not self._enabled:
            return
        if self._on_terminal:
            self._move_bar(self._standing(trainer, pl_module), _title(trainer, pl_module))
        elif final or time.monotonic() - self._shown_at >= self.interval_seconds:
            self._shown_at = time.monotonic()
            elapsed = self._shown_at - self._started_at if final else None
            line = progress_line(self._standing(trainer, pl_module), elapsed_seconds=elapsed)
            with suppress(OSError):  # stderr may be a file on a full disk
                sys.stderr.write(line + "\n")
                sys.stderr.flush()

    def _standing(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Standing:
        counter = getattr(trainer, "datamodule", None)
        counted = counter if isinstance(counter, CountsEnvSteps) else None
        return Standing(
            env_steps=counted.env_steps if counted else round(self._metrics.get("env_steps", 0)),
            total_env_steps=counted.total_env_steps if counted else None,
            episode_return=self._metrics.get("episode/return"),
            validation_return=self._metrics.get("validation/return"),
            env_steps_per_second=self._metrics.get("time/env_steps_per_second") or None,
            phase=getattr(pl_module, "phase", ""),
        )

    def _move_bar(self, standing: Standing, title: str) -> None:
        if self._bar is None:
            self._bar = Progress(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[summary]}", markup=False),
                TimeElapsedColumn(),
                console=Console(stderr=True),
                expand=True,
                refresh_per_second=2,  # the bar's thread competes with training for the interpreter
                redirect_stdout=sys.stdout.isatty(),  # what is printed belongs into the file if stdout is one
            )
            self._task = self._bar.add_task(title, total=standing.total_env_steps, summary="")
            self._bar.start()
        self._bar.update(self._task, completed=standing.env_steps, summary=progress_summary(standing))

    def _close(self) -> None:
        if self._bar is not None:
            with suppress(OSError):  # the terminal may be closed
                self._bar.stop()
            self._bar = None


def progress_line(standing: Standing, *, elapsed_seconds: float | None = None) -> str:
    """The line for log files, with exact counts.

    Args:
        standing: the newest numbers.
        elapsed_seconds: for the last line, the time that the run took, shown instead of the time left.

    Returns:
        For example `env_steps 98304/500000 (20%)  return 3.41  412 steps/s  16m15s left`.
    """
    steps = f"env_steps {standing.env_steps}"
    if standing.total_env_steps:
        steps += f"/{standing.total_env_steps} ({100 * standing.env_steps // standing.total_env_steps}%)"
    end = _time_left(standing) if elapsed_seconds is None else [f"{duration(elapsed_seconds)} elapsed"]
    return "  ".join([steps, *_measurements(standing), *end])


def progress_summary(standing: Standing) -> str:
    """The text beside the bar, with short counts: `123k/500k  return 3.41  412 steps/s  15m02s left`."""
    counts = (
        [standing.env_steps] if standing.total_env_steps is None else [standing.env_steps, standing.total_env_steps]
    )
    return "  ".join(["/".join(map(compact, counts)), *_measurements(standing), *_time_left(standing)])


def compact(count: int) -> str:
    """A count in three digits: 987, 98.3k, 123k, 1.5M, 25M."""
    for scale, suffix in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= 0.9995 * scale:
            return f"{count / scale:.3g}{suffix}"
    return str(count)


def duration(seconds: float | int) -> str:
    """A time in its two largest units: 42s, 16m12s, 3h07m, 2d04h."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d{hour:02}h"
    if hours:
        return f"{hours}h{minute:02}m"
    return f"{minutes}m{second:02}s" if minutes else f"{second}s"


def _measurements(standing: Standing) -> list[str]:
    measured = (
        ("return {:.2f}", standing.episode_return),
        ("validation {:.2f}", standing.validation_return),
        ("{:.0f} steps/s", standing.env_steps_per_second),
    )
    return [*([standing.phase] if standing.phase else []), *(text.format(v) for text, v in measured if v is not None)]


def _time_left(standing: Standing) -> list[str]:
    return [] if standing.seconds_left is None else [f"{duration(standing.seconds_left)} left"]


def _title(trainer: pl.Trainer, pl_module: pl.LightningModule) -> str:
    """Method and game."""
    method = type(pl_module).__name__.removesuffix("Module")
    game = getattr(getattr(trainer, "datamodule", None), "game", None)
    return f"{method} on {game}" if game else method
