"""Loggers: all of Lightning's, in every form, write into the run folder; metrics.csv has one writer."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import Namespace
from pytorch_lightning.loggers import CometLogger, CSVLogger, MLFlowLogger, WandbLogger

from lightning_rl.cli.command import RunCLI
from lightning_rl.runs.checkpoint_files import METADATA
from lightning_rl.runs.metrics_csv import MetricsCSV, read_metrics
from tests.support.command_lines import refusal
from tests.support.runs import ENV_STEPS, fit, fit_args, load
from tests.support.wandb_reader import read_history, read_run_id

LOGGERS = "pytorch_lightning.loggers"
WANDB: dict[str, Any] = {"class_path": f"{LOGGERS}.WandbLogger", "init_args": {"project": "p", "offline": True}}
CSV: dict[str, Any] = {"class_path": f"{LOGGERS}.CSVLogger", "init_args": {"save_dir": "logs"}}


class Comet(CometLogger):
    """Of a package that is not installed here; so is the next."""

    def __init__(self, *, project: str | None = None, **kwargs: Any) -> None:
        self.place = kwargs["offline_directory"]


class MLFlow(MLFlowLogger):
    def __init__(self, experiment_name: str = "a", save_dir: str | None = "./mlruns") -> None:
        self.place = save_dir


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    return tmp_path


def config_with(logger: Any) -> list[str]:
    Path("logger.yaml").write_text(yaml.safe_dump({"trainer": {"logger": logger}}))
    return ["--config", "logger.yaml"]


def args_with(logger: Any, *args: str, **options: Any) -> list[str]:
    short = {"model__network": "two_conv", "trainer__logger": None}
    return fit_args(Path("run"), *config_with(logger), *args, **(short | options))


def loggers_of(cli: RunCLI) -> list[Any]:
    """Those of the config, without the run's own."""
    *loggers, own = cli.trainer.loggers
    assert isinstance(own, MetricsCSV)
    return loggers


FORMS: dict[str, Callable[[Any], Any]] = {
    "alone": lambda logger: logger,
    "in a list": lambda logger: [logger],
    "after another": lambda logger: [{**CSV}, logger],
    "before another": lambda logger: [logger, {**CSV}],
}


class TestPlace:
    @pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
    def test_of_wandb_is_the_run_folder_in_every_form(self, form: Any) -> None:
        cli = RunCLI(args_with(form(WANDB)))
        [wandb] = [logger for logger in loggers_of(cli) if isinstance(logger, WandbLogger)]
        assert wandb.save_dir == "run"
        assert (wandb._wandb_init["id"], wandb._wandb_init["name"]) == (cli.location.run_id,) * 2
        assert [logger.save_dir for logger in loggers_of(cli) if isinstance(logger, CSVLogger)] in ([], ["run/logs"])
        assert not Path("run").exists()

    @pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
    @pytest.mark.parametrize(("name", "expected"), [("Comet", "run"), ("MLFlow", "run/mlruns")])
    def test_of_loggers_that_have_other_names_for_it(self, name: str, expected: str, form: Any) -> None:
        cli = RunCLI(args_with(form({"class_path": f"{__name__}.{name}"})))
        [place] = [logger.place for logger in loggers_of(cli) if hasattr(logger, "place")]
        assert place == expected

    @pytest.mark.parametrize(
        ("given", "expected"),
        [(".", "run"), ("logs", "run/logs"), ("./logs/", "run/logs"), ("run/logs", "run/logs"), ("run", "run")],
    )
    def test_that_is_given_is_one_in_the_run_folder(self, given: str, expected: str) -> None:
        for form in FORMS.values():
            logger = {"class_path": f"{LOGGERS}.CSVLogger", "init_args": {"save_dir": given, "name": "mine"}}
            cli = RunCLI(args_with(form(logger)))
            [mine] = [logger for logger in loggers_of(cli) if logger.name == "mine"]
            assert mine.save_dir == expected

    @pytest.mark.parametrize("given", ["{}/elsewhere", "~/elsewhere", "../elsewhere"])
    def test_that_is_given_outside_is_taken_and_said(
        self, given: str, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(folder))
        cli = RunCLI(
            args_with([{"class_path": f"{LOGGERS}.CSVLogger", "init_args": {"save_dir": given.format(folder)}}])
        )
        [logger] = loggers_of(cli)
        assert Path(logger.save_dir).resolve() in (folder / "elsewhere", folder.parent / "elsewhere")
        assert cli._remarks == [f"trainer.logger: CSVLogger writes to {logger.save_dir}, outside of the run folder"]

    def test_of_lightnings_own_is_the_run_folder(self) -> None:
        [logger] = loggers_of(RunCLI(args_with(True)))
        assert logger.save_dir == "run"
        assert loggers_of(RunCLI(args_with(False))) == []

    def test_what_is_given_on_the_command_line_is_the_same(self) -> None:
        args = fit_args(Path("run"), model__network="two_conv", trainer__logger="CSVLogger")
        [logger] = loggers_of(RunCLI(args))
        assert logger.save_dir == "run"
        args = fit_args(Path("run"), "--trainer.logger.init_args.name=mine", trainer__logger=None)
        [wandb] = loggers_of(RunCLI(args))
        assert (wandb.save_dir, wandb._wandb_init["name"]) == ("run", "mine")

    def test_config_keeps_what_was_given(self) -> None:
        cli = RunCLI(args_with([WANDB, CSV]))
        logger = cli.saved_config.trainer.logger
        assert [type(one) for one in logger] == [Namespace, Namespace]
        assert (logger[0].init_args.id, logger[1].init_args.save_dir) == (None, "logs")


class TestMode:
    @pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
    def test_disabled_leaves_the_others(self, form: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WANDB_MODE", "disabled")
        loggers = loggers_of(RunCLI(args_with(form(WANDB))))
        assert [type(logger) for logger in loggers] == [CSVLogger] * (form(WANDB) != WANDB and len(form(WANDB)) == 2)

    @pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
    @pytest.mark.parametrize(("mode", "offline"), [("offline", True), ("dryrun", True), ("", False), (None, False)])
    def test_goes_over_the_config(
        self, mode: str | None, offline: bool, form: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("lightning_rl.cli.loggers.silent_server", lambda: None)
        if mode is None:
            monkeypatch.delenv("WANDB_MODE")
        else:
            monkeypatch.setenv("WANDB_MODE", mode)
        online = {"class_path": f"{LOGGERS}.WandbLogger", "init_args": {"offline": False}}
        [wandb] = [x for x in loggers_of(RunCLI(args_with(form(online)))) if isinstance(x, WandbLogger)]
        assert wandb._offline is offline

    def test_online_without_an_answer_is_offline_in_a_list_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WANDB_MODE", "online")
        monkeypatch.setattr("lightning_rl.cli.loggers.silent_server", lambda: "http://nowhere")
        cli = RunCLI(args_with([CSV, WANDB]))
        _, wandb = loggers_of(cli)
        assert wandb._offline
        assert cli._remarks == ["W&B's http://nowhere does not answer: the run is logged offline, for `wandb sync`"]


def test_a_list_of_loggers_goes_on_with_one_wandb_run_and_all_is_in_the_run_folder(folder: Path) -> None:
    short: dict[str, Any] = {"model__network": "two_conv", "trainer__logger": None}
    for iterations in (1, 2):
        fit(Path("run"), *config_with([WANDB, CSV]), "--ckpt_path", "last", iterations=iterations, **short)

    assert read_run_id(Path("run")) == load(Path("run"))[METADATA]["run_id"]
    logged = [row["env_steps"] for row in read_history(Path("run")) if "loss/policy" in row]
    assert logged == [ENV_STEPS, 2 * ENV_STEPS]
    assert [row["env_steps"] for row in read_metrics(Path("run/metrics.csv"))] == ["32", "64"]
    assert [path.name for path in sorted(Path("run/logs").rglob("version_*"))] == ["version_0", "version_1"]
    assert sorted(os.listdir(folder)) == ["logger.yaml", "run"]


class TestOneWriter:
    @pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
    @pytest.mark.parametrize(
        "place",
        [
            {"save_dir": "run", "name": "", "version": ""},
            {"save_dir": ".", "name": None, "version": ""},
            {"save_dir": "{}", "name": "run", "version": ""},
            {"save_dir": "{}/link", "name": "", "version": ""},
        ],
    )
    def test_of_metrics_csv(
        self, place: dict[str, Any], form: Any, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (folder / "link").symlink_to("run")
        given = {key: value and value.format(folder) for key, value in place.items()}
        args = args_with(form({"class_path": f"{LOGGERS}.CSVLogger", "init_args": given}))
        message = refusal(args, capsys)
        assert "trainer.logger: CSVLogger must not write the run's own run/metrics.csv; give it a name" in message
        assert not Path("run").exists()

    @pytest.mark.parametrize(
        "options", [{"save_last": True}, {"filename": "best"}, {"filename": "last"}, {"filename": "previous"}]
    )
    def test_of_the_checkpoints(self, options: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
        callback = {
            "class_path": "pytorch_lightning.callbacks.ModelCheckpoint",
            "init_args": {"dirpath": "run", **options},
        }
        Path("more.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
        message = refusal(fit_args(Path("run"), "--config", "more.yaml", model__network="two_conv"), capsys)
        assert "trainer.callbacks: ModelCheckpoint must not write the run's own" in message
        assert not Path("run").exists()
