"""What is told of wrong input: the innermost reason, and that `--config` comes first."""

import importlib.util
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning_fabric.utilities.exceptions import MisconfigurationException

from lightning_rl.cli.command import RunCLI
from lightning_rl.cli.config_files import check_order
from lightning_rl.cli.program import _status_of, main
from lightning_rl.cli.registry import check_class_options
from lightning_rl.errors import UsageError
from tests.support.command_lines import parsed, refusal
from tests.support.methods import CONFIGS
from tests.support.runs import fit_args

PPO = ["fit", "--config", str(CONFIGS / "ppo.yaml"), "--run_dir", "run"]
LOGGERS = "pytorch_lightning.loggers"
without_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is not None or importlib.util.find_spec("tensorboardX") is not None,
    reason="tells what is missing",
)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


class TestTheInnermostReason:
    @without_tensorboard
    @pytest.mark.parametrize("as_a_list", [False, True])
    def test_of_a_logger_that_cannot_be_built(
        self, as_a_list: bool, empty_folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        logger = {"class_path": f"{LOGGERS}.TensorBoardLogger", "init_args": {"save_dir": "logs"}}
        other = {"class_path": f"{LOGGERS}.CSVLogger", "init_args": {"save_dir": "logs"}}
        Path("more.yaml").write_text(yaml.safe_dump({"trainer": {"logger": [other, logger] if as_a_list else logger}}))
        message = refusal([*PPO, "--config", "more.yaml"], capsys)
        assert "trainer.logger: TensorBoardLogger: Neither `tensorboard` nor `tensorboardX` is available." in message
        assert os.listdir(empty_folder) == ["more.yaml"]

    @pytest.mark.parametrize(
        ("callback", "told"),
        [
            ({"class_path": "pytorch_lightning.nowhere.Foo"}, "module 'pytorch_lightning' has no attribute 'nowhere'"),
            ({"class_path": "nowhere.Foo"}, "trainer.callbacks must be a class of lightning_rl"),
            (
                {"class_path": "pytorch_lightning.callbacks.EarlyStopping"},
                "trainer.callbacks.monitor is missing",
            ),
            (
                {"class_path": "pytorch_lightning.callbacks.EarlyStopping", "init_args": {"monitr": "x"}},
                "trainer.callbacks.monitr is not an option",
            ),
            (
                {
                    "class_path": "pytorch_lightning.callbacks.EarlyStopping",
                    "init_args": {"monitor": "x", "mode": "u"},
                },
                "`mode` can be min, max, got u",
            ),
        ],
    )
    def test_of_a_callback(self, callback: dict[str, object], told: str, capsys: pytest.CaptureFixture[str]) -> None:
        Path("more.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
        message = refusal([*PPO, "--config", "more.yaml"], capsys)
        assert told in message
        assert "--config FILE" not in message

    def test_of_callbacks_that_cannot_be_told_apart(
        self, capsys: pytest.CaptureFixture[str], empty_folder: Path
    ) -> None:
        twice = [{"class_path": "pytorch_lightning.callbacks.ModelCheckpoint"}] * 2
        Path("more.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": twice}}))
        message = refusal([*PPO, "--config", "more.yaml"], capsys)
        assert "trainer.callbacks: Found more than one stateful callback of type `ModelCheckpoint`" in message
        assert os.listdir(empty_folder) == ["more.yaml"]

    @pytest.mark.parametrize(
        ("option", "value"), [("logger", "FooLogger"), ("callbacks", "FooCallback"), ("plugins", "FooPlugin")]
    )
    def test_of_a_class_that_is_not_known(self, option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
        message = refusal([*PPO, f"--trainer.{option}", value], capsys)
        assert f"trainer.{option} must be a class, named by its import path, found {value}" in message


class TestNull:
    @pytest.mark.parametrize("key", ["data.num_envs", "model.epochs", "model.gamma", "model.network"])
    def test_is_refused_where_it_means_nothing(self, key: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert f"{key} must not be null" in refusal([*PPO, f"--{key}", "null"], capsys)

    @pytest.mark.parametrize("key", ["data.test_env_steps", "model.micro_batches", "model.value_epsilon"])
    def test_is_taken_where_it_has_a_meaning(self, key: str) -> None:
        check_class_options(parsed([*PPO, f"--{key}", "null"]))


def test_a_key_given_twice_in_a_config_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("twice.yaml").write_text("data:\n  init_args:\n    num_envs: 4\n    num_steps: 8\n    num_envs: 8\n")
    message = refusal([*PPO, "--config", "twice.yaml"], capsys)
    assert "config: twice.yaml is not a config: num_envs is given twice, in lines 3 and 5" in message


@pytest.mark.parametrize(
    "error",
    [
        MisconfigurationException("`ModelCheckpoint(monitor='x')` could not find the monitored key"),
        ModuleNotFoundError("`DeviceStatsMonitor` cannot log CPU stats as `psutil` is not installed"),
    ],
)
def test_what_a_callback_misses_once_it_runs_is_told_in_one_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_: RunCLI) -> None:
        raise error

    monkeypatch.setattr(RunCLI, "run", fail)
    assert _status_of(RunCLI.__new__(RunCLI)) == 2
    assert capsys.readouterr().err == f"lightning-rl: {error}\n"


def test_so_is_a_metric_that_early_stopping_waits_for_in_vain(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    callbacks = tmp_path / "callbacks.yaml"
    stopping = {
        "class_path": "pytorch_lightning.callbacks.EarlyStopping",
        "init_args": {"monitor": "validation/retrun"},
    }
    callbacks.write_text(yaml.safe_dump({"trainer": {"callbacks": [stopping]}}))
    options: dict[str, Any] = {"iterations": 1, "model__network": "two_conv", "trainer__check_val_every_n_epoch": 1}

    assert main(fit_args(tmp_path / "run", "--config", str(callbacks), **options)) == 2

    told = capsys.readouterr().err.splitlines()[-1]
    assert told.startswith(
        "lightning-rl: Early stopping conditioned on metric `validation/retrun` which is not available"
    )


class TestConfigComesFirst:
    @pytest.mark.parametrize(
        ("before", "config", "named"),
        [
            (["--model.vae.latent_size", "8"], "impala_vae", "model.vae.latent_size"),
            (["--model.init_args.network=two_conv"], "ppo", "model.network"),
            (["--model", "ImpalaModule"], "ppo", "model"),
            (["--data.frame_skip", "3"], "ppo_atari", "data.frame_skip"),
            (["--data.num_envs", "4"], "impala", "data.num_envs"),
            (["--model.micro_batches", "null"], "hardware/cpu", "model.micro_batches"),
            (["--trainer.precision=32-true"], "hardware/cpu", "trainer.precision"),
        ],
    )
    def test_what_it_would_replace_is_refused(self, before: list[str], config: str, named: str) -> None:
        path = str(CONFIGS / f"{config}.yaml")
        told = f"{named} is given before --config {path}, which would replace it; --config comes first"
        for args in (["--config", path], ["-c", path]):
            with pytest.raises(UsageError, match=re.escape(told)):
                check_order(["fit", *before, *args])
        with pytest.raises(UsageError, match=re.escape(told)):
            check_order(["fit", "--config", str(CONFIGS / "ppo.yaml"), *before, f"--config={path}"])

    def test_is_told_in_one_line(self, empty_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        args = ["fit", "--model", "ImpalaModule", "--config", str(CONFIGS / "ppo.yaml")]
        assert "model is given before --config" in refusal(args, capsys)
        assert os.listdir(empty_folder) == []

    def test_what_it_leaves_alone_is_taken(self) -> None:
        before = ["--run_dir", "run", "--trainer.max_epochs", "3", "--seed_everything=7"]
        options = parsed(["fit", *before, "--config", str(CONFIGS / "ppo.yaml")])
        assert (options.run_dir, options.trainer.max_epochs, options.seed_everything) == ("run", 3, 7)
