import os
import random
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.demos.boring_classes import BoringModel

from lightning_rl.callbacks import graceful_stop
from lightning_rl.callbacks.graceful_stop import StopAtBoundary
from lightning_rl.runs.metrics_csv import read_metrics
from lightning_rl.runs.random_states import RandomStates
from tests.support.runs import fit, load, started


def draws() -> list[float]:
    return [
        float(torch.rand(())),
        random.random(),
        random.gauss(0, 1),
        float(np.random.rand()),  # noqa: NPY002
        float(np.random.randn()),  # noqa: NPY002
    ]


def test_random_states_go_on_where_they_were_saved(tmp_path: Path) -> None:
    trainer, module = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False), LightningModule()
    draws()
    torch.save(RandomStates().state_dict(), tmp_path / "states")
    expected = draws()

    restored = RandomStates()
    restored.load_state_dict(torch.load(tmp_path / "states", weights_only=True))
    assert draws() != expected  # loading alone restores nothing: what follows it may still draw
    restored.on_train_start(trainer, module)
    assert draws() == expected


def signalled_twice(echo_seconds: float) -> None:
    graceful_stop._ECHO_SECONDS = echo_seconds
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    stopper = StopAtBoundary()
    stopper.setup(trainer, LightningModule(), "fit")
    trainer._signal_connector.register_signal_handlers()  # as `fit` does
    os.kill(os.getpid(), signal.SIGTERM)
    if stopper.received == signal.SIGTERM:
        os.kill(os.getpid(), signal.SIGUSR1)
    os._exit(7 if stopper.received == signal.SIGTERM else 8)


@pytest.mark.parametrize(("echo_seconds", "status"), [pytest.param(0.0, 143, marks=pytest.mark.slow), (60.0, 7)])
def test_a_second_signal_ends_the_process_at_once_unless_it_is_an_echo(echo_seconds: float, status: int) -> None:
    process = started(signalled_twice, echo_seconds)
    process.join(100)
    assert process.exitcode == status


def test_the_first_signal_of_a_rank_that_was_told_to_stop_is_no_second_one() -> None:
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    stopper = StopAtBoundary()
    stopper.received = signal.SIGTERM  # as another rank has told
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        stopper._note_signals(trainer)
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert stopper.received == signal.SIGTERM  # and this process lives


class Judged(BoringModel):
    """Is told to stop in the first step of whatever is done."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 0:
            os.kill(os.getpid(), signal.SIGTERM)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        if self.trainer.state.fn != "fit":
            os.kill(os.getpid(), signal.SIGTERM)
        return super().validation_step(batch, batch_idx)

    def test_step(self, batch: Any, batch_idx: int) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return super().test_step(batch, batch_idx)

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return super().predict_step(batch, batch_idx)


class Early(BoringModel):
    """Is told to stop when Lightning has set its handlers and no batch was seen."""

    def train_dataloader(self) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return super().train_dataloader()


def stopped_in(command: str, model: type[BoringModel] = Judged) -> None:
    options: dict[str, Any] = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    stopper = StopAtBoundary()
    trainer = Trainer(accelerator="cpu", max_epochs=3, enable_checkpointing=False, callbacks=[stopper], **options)
    getattr(trainer, command)(model())
    os._exit(7 if trainer.current_epoch == 1 and stopper.received == signal.SIGTERM else 8)


@pytest.mark.parametrize(
    ("command", "model", "status"),
    [("fit", Judged, 7), ("fit", Early, 7), *((name, Judged, 143) for name in ("validate", "test", "predict"))],
)
def test_a_signal_ends_training_at_a_boundary_and_judging_at_once(
    command: str, model: type[BoringModel], status: int
) -> None:
    process = started(stopped_in, command, model)
    process.join(100)
    assert process.exitcode == status


def test_the_run_ends_at_the_first_boundary_past_its_budget_and_counts_past_float32(tmp_path: Path) -> None:
    games = fit(tmp_path, data__total_env_steps=33)["ProcgenDataModule"]
    assert games["env_steps"] == 64

    checkpoint, many = load(tmp_path), 2**26 + 1
    checkpoint["ProcgenDataModule"]["env_steps"] = many
    checkpoint["ProcgenDataModule"]["collectors"][0]["env_steps"] = many
    torch.save(checkpoint, tmp_path / "last.ckpt")
    fit(tmp_path, "--ckpt_path", "last", data__total_env_steps=many + 1)

    table = read_metrics(tmp_path / "metrics.csv")
    assert [int(row["env_steps"]) for row in table] == [32, 64, many + 32]
    assert all(0 < float(row["time/env_steps_per_second"]) < 1e6 for row in table)
