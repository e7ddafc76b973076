"""Options of Lightning's Trainer: refused in one line, before anything is written, where a run would break by them."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import Namespace
from pytorch_lightning import Trainer

from lightning_rl.cli.command import RunCLI
from lightning_rl.cli.trainer_options import check_built, check_options, cluster_environment
from lightning_rl.errors import UsageError
from lightning_rl.modules.base import RLModule
from lightning_rl.modules.ppo import PPOModule
from tests.support.command_lines import parsed, refusal
from tests.support.methods import CONFIGS
from tests.support.shared_runs import SharedRuns

PPO = ["fit", "--config", str(CONFIGS / "ppo.yaml"), "--trainer.accelerator", "cpu", "--run_dir", "run"]
_EVERY_EPOCH = ["--trainer.check_val_every_n_epoch", "1"]
CUT = "it would cut iterations short"
ENDS = "the run ends at data.total_env_steps"


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def defaults() -> Namespace:
    options: Namespace = parsed(PPO).trainer
    return options


def check(defaults: Namespace, *, subcommand: str = "fit", **given: Any) -> None:
    """Judges the options of a command that has these, and the defaults else."""
    trainer = defaults.clone()
    for key, value in given.items():
        trainer[key] = value
    check_options(trainer, subcommand=subcommand)


PRECISION = "must be 32-true, bf16-mixed or 16-mixed"


class TestRefused:
    @pytest.mark.parametrize(
        ("option", "value", "told"),
        [
            ("overfit_batches", 1, ["must be 0", CUT]),
            ("overfit_batches", 0.5, ["must be 0", "found 0.5", CUT]),
            ("limit_train_batches", 0.5, ["must be null", CUT]),
            ("limit_train_batches", 0, ["must be null", CUT]),
            ("max_steps", 3, ["must be -1", CUT]),
            ("min_steps", 3, ["must be null or 0", ENDS]),
            ("min_epochs", 3, ["must be null or 0", ENDS]),
            ("max_epochs", 0, ["must be -1, null or at least 1"]),
            ("max_epochs", -3, ["must be -1, null or at least 1"]),
            ("max_time", "1h", ["must be DD:HH:MM:SS"]),
            ("max_time", "00:00:00:00", ["must be DD:HH:MM:SS", "positive"]),
            ("max_time", "1", ["must be DD:HH:MM:SS"]),
            ("max_time", {"foo": 1}, ["must be DD:HH:MM:SS"]),
            ("max_time", {"seconds": 0}, ["must be DD:HH:MM:SS", "positive"]),
            ("gradient_clip_algorithm", "value", ["must be null", "model.max_grad_norm"]),
            ("accumulate_grad_batches", 0, ["must be at least 1"]),
            ("check_val_every_n_epoch", 0, ["must be null or at least 1"]),
            ("check_val_every_n_epoch", -1, ["must be null or at least 1"]),
            ("val_check_interval", 1.5, ["must be", "found 1.5"]),
            ("val_check_interval", 0, ["must be", "found 0"]),
            ("val_check_interval", -2, ["must be", "found -2"]),
            ("limit_val_batches", 0.5, ["must be null, 0 or at least 1", "data.validation_episodes"]),
            ("limit_val_batches", -1, ["must be null, 0 or at least 1"]),
            ("limit_test_batches", 0.5, ["must be null or at least 1", "data.test_episodes"]),
            ("limit_test_batches", 0, ["must be null or at least 1"]),
            ("limit_predict_batches", 0.5, ["must be null or at least 1", "data.predict_episodes"]),
            ("barebones", True, ["must be false"]),
            ("enable_checkpointing", False, ["must be null or true"]),
            ("default_root_dir", "elsewhere", ["must be null", "run_dir"]),
            ("precision", "bf16-true", [PRECISION]),
            ("precision", "16-true", [PRECISION]),
            ("precision", "64-true", [PRECISION]),
            ("precision", 64, [PRECISION]),
            ("precision", "transformer-engine", [PRECISION]),
            ("precision", "16-mixed", ["must be 32-true or bf16-mixed on a CPU"]),
            ("precision", 16, ["must be 32-true or bf16-mixed on a CPU"]),
        ],
    )
    def test_is_named_with_what_was_found_and_what_is_allowed(
        self, option: str, value: Any, told: list[str], defaults: Namespace
    ) -> None:
        with pytest.raises(UsageError) as refused:
            check(defaults, **{option: value})
        assert [part for part in (f"trainer.{option}", *told) if part not in str(refused.value)] == []

    @pytest.mark.parametrize(
        ("option", "value", "told"),
        [
            ("overfit_batches", "1", "trainer.overfit_batches must be 0, found 1;"),
            ("precision", "bf16-true", f"trainer.precision {PRECISION}"),
            ("barebones", "true", "trainer.barebones must be false"),
            (
                "plugins",
                "pytorch_lightning.plugins.HalfPrecision",
                "trainer.plugins must leave trainer.precision as it is, found HalfPrecision",
            ),
        ],
    )
    def test_in_one_line_and_nothing_is_written(
        self, option: str, value: str, told: str, empty_folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        message = refusal([*PPO, f"--trainer.{option}={value}"], capsys)
        assert told in message
        assert [part for part in (" object at 0x", "Trainer(", "`") if part in message] == []
        assert os.listdir(empty_folder) == []

    def test_a_validation_that_would_never_come(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Lightning finds this out once it has begun."""
        told = "trainer.val_check_interval must be at most 24, the batches of an epoch, found 25"
        assert told in refusal([*PPO, *_EVERY_EPOCH, "--trainer.val_check_interval", "25"], capsys)
        quiet: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False}
        with pytest.raises(UsageError, match=told):
            check_built(Trainer(val_check_interval=25, **quiet), batches=24)
        check_built(Trainer(val_check_interval=24, **quiet), batches=24)
        check_built(Trainer(val_check_interval=25, check_val_every_n_epoch=None, **quiet), batches=24)

    def test_a_number_of_batches_where_epochs_differ_in_length(self, capsys: pytest.CaptureFixture[str]) -> None:
        simple = ["fit", "--config", str(CONFIGS / "simple_cpu.yaml"), "--run_dir", "run"]
        message = refusal([*simple, *_EVERY_EPOCH, "--trainer.val_check_interval", "1"], capsys)
        assert "trainer.val_check_interval must be a share of an epoch for SimPLeModule" in message

    @pytest.mark.parametrize(("environment", "told"), [
        ({"SLURM_NTASKS": "2"}, ["SLURM_NTASKS must be 1 without srun, found 2", "srun"]),
        ({"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}, ["SLURM_NTASKS must be 1 without srun, found 2"]),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "0"}, ["SLURM_NTASKS must be 1 without srun, found 2"]),  # as in sbatch
        ({"SLURM_NTASKS": "2", "SLURM_STEP_ID": "0"}, ["SLURM_NTASKS_PER_NODE", "--ntasks-per-node=2"]),
        ({"SLURM_NTASKS": "two", "SLURM_PROCID": "0"}, ["SLURM_NTASKS must be a number, found two"]),
    ])  # fmt: skip
    def test_tasks_that_slurm_has_not_started(
        self, environment: dict[str, str], told: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for key, value in environment.items():
            monkeypatch.setenv(key, value)
        with pytest.raises(UsageError) as refused:
            cluster_environment([])
        assert [part for part in told if part not in str(refused.value)] == []

    def test_a_task_that_slurm_has_not_started_in_one_line(
        self, empty_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setenv("SLURM_NTASKS", "2")
        assert "SLURM_NTASKS must be 1 without srun, found 2" in refusal(PPO, capsys)
        assert os.listdir(empty_folder) == []


class TestTaken:
    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("limit_train_batches", None),
            ("limit_val_batches", 1),
            ("limit_val_batches", 1.0),
            ("limit_val_batches", 0),
            ("limit_test_batches", 1.0),
            ("min_epochs", 0),
            ("max_epochs", 7),
            ("accumulate_grad_batches", 2),
            ("val_check_interval", 0.5),
            ("val_check_interval", "00:00:10:00"),
            ("enable_checkpointing", True),
            ("max_time", "00:12:00:00"),
            ("precision", "32"),
        ],
    )
    def test_what_breaks_nothing(self, option: str, value: Any, defaults: Namespace) -> None:
        check(defaults, **{option: value})

    def test_no_limit_on_epochs_is_none(self) -> None:
        """Lightning's would be a thousand."""
        options = {"max_epochs": "null", "limit_train_batches": "null", "val_check_interval": "0.5", "precision": "32"}
        given = [text for key, value in options.items() for text in (f"--trainer.{key}", value)]
        assert RunCLI([*PPO, *given, "--trainer.max_time", "00:12:00:00"]).trainer.max_epochs == -1

    @pytest.mark.parametrize("value", [0.5, 0])
    def test_nothing_is_judged_without_episodes(self, value: float, defaults: Namespace) -> None:
        with pytest.raises(UsageError, match=f"limit_val_batches must be null or at least 1, found {value}; a level"):
            check(defaults, subcommand="validate", limit_val_batches=value)

    def test_a_part_of_a_validation_is_refused_in_one_line(
        self, runs: SharedRuns, capsys: pytest.CaptureFixture[str]
    ) -> None:
        args = ["validate", "--ckpt_path", str(runs.finished("ppo")), "--trainer.limit_val_batches", "0.5"]
        assert "trainer.limit_val_batches must be null or at least 1, found 0.5" in refusal(args, capsys)


class TestFromPython:
    def module(self, **options: Any) -> RLModule:
        module = PPOModule(network="two_conv", minibatch_size=8)
        module.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **options)
        return module

    @pytest.mark.parametrize(
        ("options", "told"),
        [
            ({"overfit_batches": 1}, "Trainer's overfit_batches must be 0, found 1"),
            ({"limit_train_batches": 3}, "Trainer's limit_train_batches must be null, found 3"),
            ({"max_steps": 3}, "Trainer's max_steps must be -1, found 3"),
        ],
    )
    def test_what_would_cut_an_iteration_is_refused(self, options: dict[str, Any], told: str) -> None:
        with pytest.raises(ValueError, match=told):
            self.module(**options).setup("fit")

    @pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true"])
    @pytest.mark.parametrize("stage", ["fit", "validate", "test", "predict"])
    def test_a_precision_that_networks_do_not_support_is_refused(self, precision: str, stage: str) -> None:
        with pytest.raises(ValueError, match=f"must be 32-true, bf16-mixed or 16-mixed, found {precision}"):
            self.module(precision=precision).setup(stage)
        assert torch.get_default_dtype() == torch.float32

    def test_what_breaks_nothing_is_taken(self) -> None:
        self.module(max_epochs=3, fast_dev_run=2).setup("fit")
        self.module(precision="bf16-mixed").setup("fit")
