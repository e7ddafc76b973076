import errno
import io
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_rl.callbacks.progress import (
    EnvStepsProgress,
    Standing,
    compact,
    duration,
    progress_line,
    progress_summary,
)
from lightning_rl.runs.metrics_csv import MetricsCSV, read_metrics

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec.* is deprecated:FutureWarning"  # Lightning 2.6 on torch 2.13, in its own CombinedLoader
)

START = 2**24 + 1  # the first whole number that float32 lacks


class Batches:
    """One epoch of two batches; collecting each takes env steps."""

    def __init__(self, data: "CountingDataModule") -> None:
        self.data = data

    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[Tensor]:
        for _ in range(2):
            self.data.env_steps += 50
            yield torch.ones(1)


class CountingDataModule(pl.LightningDataModule):
    game = "starpilot"

    def __init__(self, env_steps: int = 0) -> None:
        super().__init__()
        self.env_steps = env_steps
        self.total_env_steps = env_steps + 300

    def train_dataloader(self) -> Batches:
        return Batches(self)


class ToyModule(pl.LightningModule):
    def __init__(self, keys: tuple[str, ...] = ("episode/return", "time/env_steps_per_second")) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.keys = keys

    def training_step(self, batch: Tensor) -> Tensor:
        return (self.weight * batch).sum()

    def on_train_epoch_end(self) -> None:
        env_steps = self.trainer.datamodule.env_steps  # type: ignore[attr-defined]
        numbers = {"episode/return": self.current_epoch + 0.25, "time/env_steps_per_second": 4.0}
        logged = {key: numbers[key] for key in self.keys}
        self.log_dict({"env_steps": torch.tensor(env_steps, dtype=torch.float64), **logged})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class PlainModule(ToyModule):
    """Trained from loaders, without a data module of ours."""

    def on_train_epoch_end(self) -> None:
        self.log("env_steps", 100.0 * (self.current_epoch + 1))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class FullDisk(io.StringIO):
    def write(self, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class ClosedTerminal(Terminal):
    """Open until it is hung up."""

    hung_up = False

    def write(self, text: str) -> int:
        if self.hung_up:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().write(text)


def terminal_as_stderr(monkeypatch: pytest.MonkeyPatch, *, kind: str = "xterm") -> Terminal:
    monkeypatch.setenv("TERM", kind)
    monkeypatch.setenv("COLUMNS", "160")
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def trainer_with(progress: EnvStepsProgress, folder: Path) -> pl.Trainer:
    return pl.Trainer(
        max_epochs=3,
        log_every_n_steps=1,
        accelerator="cpu",
        logger=MetricsCSV(folder / "metrics.csv"),
        callbacks=[progress],
        enable_checkpointing=False,
        enable_model_summary=False,
    )


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (987, "987"), (999, "999"), (1000, "1k"), (98_304, "98.3k"), (123_456, "123k"), (999_499, "999k"),
     (999_500, "1M"), (1_500_000, "1.5M"), (25_000_000, "25M"), (2_000_000_000, "2G")],
)  # fmt: skip
def test_counts_have_three_digits(count: int, text: str) -> None:
    assert compact(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (42.4, "42s"),
        (59.6, "1m00s"),
        (972, "16m12s"),
        (3599.7, "1h00m"),
        (11_220, "3h07m"),
        (187_200, "2d04h"),
    ],
)
def test_times_have_two_units(seconds: float, text: str) -> None:
    assert duration(float(seconds)) == text


def test_line_and_bar_say_the_same() -> None:
    standing = Standing(98_304, 500_000, 3.414, 2.5, 412.3)
    assert progress_line(standing) == (
        "env_steps 98304/500000 (19%)  return 3.41  validation 2.50  412 steps/s  16m14s left"
    )
    assert progress_summary(standing) == "98.3k/500k  return 3.41  validation 2.50  412 steps/s  16m14s left"


def test_what_is_unknown_is_not_shown() -> None:
    assert progress_line(Standing(100)) == "env_steps 100"
    assert progress_line(Standing(100, env_steps_per_second=5.0)) == "env_steps 100  5 steps/s"
    assert progress_line(Standing(100, 200, env_steps_per_second=0.0)) == "env_steps 100/200 (50%)  0 steps/s"
    assert progress_summary(Standing(1500, episode_return=1.0)) == "1.5k  return 1.00"


def test_off_a_terminal_lines_name_what_each_epoch_reached(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = trainer_with(EnvStepsProgress(interval_seconds=0), tmp_path)
    trainer.fit(ToyModule(), datamodule=CountingDataModule())
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("env_steps")]
    assert lines[0] == "env_steps 0/300 (0%)"
    assert "env_steps 100/300 (33%)  return 0.25  4 steps/s  50s left" in lines
    assert "env_steps 250/300 (83%)  return 1.25  4 steps/s  12s left" in lines  # in the middle of an epoch
    assert re.fullmatch(r"env_steps 300/300 \(100%\)  return 2.25  4 steps/s  \ds elapsed", lines[-1])
    assert out == ""


def test_within_the_interval_only_the_end_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = trainer_with(EnvStepsProgress(), tmp_path)
    trainer.fit(ToyModule(), datamodule=CountingDataModule())
    assert len(re.findall("^env_steps .*elapsed$", capsys.readouterr().err, re.MULTILINE)) == 1


def test_missing_metrics_and_a_foreign_data_module_are_no_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer_with(EnvStepsProgress(), tmp_path).fit(ToyModule(keys=()), datamodule=CountingDataModule())
    assert re.search(r"^env_steps 300/300 \(100%\)  \ds elapsed$", capsys.readouterr().err, re.MULTILINE)
    trainer_with(EnvStepsProgress(), tmp_path).fit(PlainModule(), train_dataloaders=Batches(CountingDataModule()))
    assert re.search(r"^env_steps 300  \ds elapsed$", capsys.readouterr().err, re.MULTILINE)


def test_disabled_it_is_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    progress = EnvStepsProgress(interval_seconds=0)
    progress.disable()
    trainer_with(progress, tmp_path).fit(ToyModule(), datamodule=CountingDataModule())
    assert "env_steps" not in capsys.readouterr().err


def test_on_a_terminal_a_bar_names_method_game_and_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_as_stderr(monkeypatch)
    trainer_with(EnvStepsProgress(), tmp_path).fit(ToyModule(), datamodule=CountingDataModule(env_steps=1500))
    last_frame = terminal.getvalue().split("\r")[-1]
    assert "Toy on starpilot" in last_frame
    assert "1.8k/1.8k  return 2.25  4 steps/s" in last_frame
    assert "left" not in last_frame
    assert last_frame.endswith("\x1b[?25h")  # the cursor is visible again


def test_an_error_in_training_leaves_the_terminal_usable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_as_stderr(monkeypatch)
    stdout = sys.stdout
    module = ToyModule()
    monkeypatch.setattr(module, "on_train_epoch_end", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer_with(EnvStepsProgress(), tmp_path).fit(module, datamodule=CountingDataModule())
    assert terminal.getvalue().endswith("\x1b[?25h")
    assert (sys.stdout, sys.stderr) == (stdout, terminal)


def test_training_goes_on_when_its_log_file_is_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", FullDisk())
    trainer_with(EnvStepsProgress(interval_seconds=0), tmp_path).fit(ToyModule(), datamodule=CountingDataModule())
    assert [row["env_steps"] for row in read_metrics(tmp_path / "metrics.csv")] == ["100", "200", "300"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # of the bar's own thread
def test_training_goes_on_when_its_terminal_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class HangingUp(ToyModule):
        def on_train_epoch_end(self) -> None:
            super().on_train_epoch_end()
            terminal.hung_up = True

    terminal_as_stderr(monkeypatch)
    terminal = ClosedTerminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    trainer_with(EnvStepsProgress(), tmp_path).fit(HangingUp(), datamodule=CountingDataModule())
    assert [row["env_steps"] for row in read_metrics(tmp_path / "metrics.csv")] == ["100", "200", "300"]


def test_a_dumb_terminal_gets_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = terminal_as_stderr(monkeypatch, kind="dumb")
    trainer_with(EnvStepsProgress(), tmp_path).fit(ToyModule(), datamodule=CountingDataModule())
    assert "env_steps 300/300 (100%)" in terminal.getvalue()
    assert "\x1b" not in terminal.getvalue()


def test_printing_through_the_trainer_reaches_stdout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer_with(EnvStepsProgress(), tmp_path).print("return", 3.5)
    assert capsys.readouterr().out == "return 3.5\n"


def test_counts_beyond_float32_reach_the_file_exactly(tmp_path: Path) -> None:
    trainer_with(EnvStepsProgress(), tmp_path).fit(ToyModule(), datamodule=CountingDataModule(env_steps=START))
    rows = read_metrics(tmp_path / "metrics.csv")
    assert [int(row["env_steps"]) for row in rows] == [START + 100, START + 200, START + 300]
