"""`--trainer.max_time` is that of one start; what ends before its budget says so."""

import time
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Timer

from lightning_rl.callbacks.time_limit import TimeLimit
from lightning_rl.cli.program import main
from tests.support.runs import ENV_STEPS, fit, fit_args, load
from tests.support.worlds import Batches, draw_rollout, make_module, make_trainer, whole_batch

SHORT: dict[str, Any] = {"model__network": "two_conv"}


class Sleeps(TimeLimit):
    """A limit that is reached in the first epoch."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: object) -> None:
        time.sleep(1.1)


def epochs_of_one_start(tmp_path: Path, limit: Timer, *, resumes: bool) -> int:
    module, path = make_module(), tmp_path / "last.ckpt"
    trainer = make_trainer(max_epochs=9, callbacks=[limit], num_sanity_val_steps=0, limit_val_batches=0)
    batches = Batches(whole_batch(module, draw_rollout(1)))
    trainer.fit(module, batches, [], ckpt_path=path if resumes else None)
    trainer.save_checkpoint(path)
    return trainer.current_epoch


def test_each_start_has_the_whole_time(tmp_path: Path) -> None:
    assert epochs_of_one_start(tmp_path, Sleeps("00:00:00:01"), resumes=False) == 1
    assert epochs_of_one_start(tmp_path, Sleeps("00:00:00:01"), resumes=True) == 2


def test_the_command_trains_at_every_start_and_says_that_the_budget_is_not_reached(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {**SHORT, "trainer__max_time": "00:00:00:01", "iterations": 10**4}
    reached = []
    for _ in range(2):
        assert main(fit_args(tmp_path / "a b", "--ckpt_path", "last", **options)) == 0
        reached.append(load(tmp_path / "a b")["ProcgenDataModule"]["env_steps"])
        told = capsys.readouterr().err.splitlines()[-1]
        assert told == (
            f"lightning-rl: trainer.max_time 00:00:00:01 ended the run at {reached[-1]} of data.total_env_steps"
            f" {10**4 * ENV_STEPS}; --run_dir '{tmp_path}/a b' --ckpt_path last goes on, for as long again"
        )
    assert 0 < reached[0] < reached[1]


def test_a_checkpoint_of_before_does_not_bring_its_time(tmp_path: Path) -> None:
    """Runs that were saved with Lightning's own timer."""
    assert TimeLimit("00:00:00:01").state_key == Timer().state_key
    assert TimeLimit("00:00:00:01").state_dict() == {}
    limit = TimeLimit("00:00:00:01")
    limit.load_state_dict({"time_elapsed": {"train": 99.0}})
    assert limit.time_elapsed() == 0


def test_so_does_a_run_that_other_limits_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(fit_args(tmp_path, trainer__max_epochs=1, **SHORT)) == 0
    told = "lightning-rl: trainer.max_epochs 1 ended the run at 32 of data.total_env_steps 64; give more to continue\n"
    assert told in capsys.readouterr().err
    fit(tmp_path, "--ckpt_path", "last", **SHORT)
    assert "ended the run" not in capsys.readouterr().err
