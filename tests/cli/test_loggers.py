"""Loggers: all of Lightning's, in every form, write into the run folder; metrics.csv has one writer."""

import io
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import wandb
import yaml
from jsonargparse import Namespace, dict_to_namespace
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CometLogger, CSVLogger, MLFlowLogger, WandbLogger

from lightning_rl.cli.command import RunCLI
from lightning_rl.cli.loggers import _class_of, check_one_writer, place_loggers
from lightning_rl.errors import UsageError
from lightning_rl.runs.checkpoint_files import METADATA
from lightning_rl.runs.metrics_csv import MetricsCSV, read_metrics
from tests.support.command_lines import parsed, refusal
from tests.support.runs import ENV_STEPS, fit, fit_args, load
from tests.support.wandb_reader import read_history, read_run_id

LOGGERS = "pytorch_lightning.loggers"
WANDB: dict[str, Any] = {"class_path": f"{LOGGERS}.WandbLogger", "init_args": {"project": "p", "offline": True}}


def csv_logger(**options: Any) -> dict[str, Any]:
    return {"class_path": f"{LOGGERS}.CSVLogger", "init_args": options}


CSV = csv_logger(save_dir="logs")


class Comet(CometLogger):
    """Of a package that is not installed here; so is the next."""

    def __init__(self, *, project: str | None = None, **kwargs: Any) -> None:
        self.place = kwargs["offline_directory"]


class MLFlow(MLFlowLogger):
    def __init__(self, experiment_name: str = "a", save_dir: str | None = "./mlruns") -> None:
        self.place = save_dir


class Terminal(io.StringIO):
    """Where somebody can answer."""

    def isatty(self) -> bool:
        return True


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


Form = Callable[[Any, Any], Any]
FORMS: dict[str, Form] = {
    "alone": lambda logger, _: logger,
    "in a list": lambda logger, _: [logger],
    "after another": lambda logger, other: [other, logger],
    "before another": lambda logger, other: [logger, other],
}
every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


@cache
def _parsed(logger: str) -> Namespace:
    """A logger with its options, from YAML; parsing takes most of the time."""
    options: Namespace = parsed(args_with(yaml.safe_load(logger))).trainer.logger
    return options


def form_of(logger: dict[str, Any], form: Form) -> Any:
    """As the parser gives a logger of a config that is alone, or in a list."""
    return form(_parsed(yaml.safe_dump(logger)).clone(), _parsed(yaml.safe_dump(CSV)).clone())


def built(logger: dict[str, Any], form: Form) -> tuple[list[Any], list[str]]:
    """The loggers of a run in run/, and what its user is told."""
    trainer = dict_to_namespace({"logger": form_of(logger, form)})
    told = place_loggers(trainer, run_dir=Path("run"), run_id="id")
    loggers = trainer.logger if isinstance(trainer.logger, list) else [trainer.logger] if trainer.logger else []
    return [_class_of(one)(**one.init_args, **(one.get("dict_kwargs") or {})) for one in loggers], told


class TestPlace:
    @every_form
    def test_of_wandb_is_the_run_folder_in_every_form(self, form: Form) -> None:
        loggers, _ = built(WANDB, form)
        [wandb] = [logger for logger in loggers if isinstance(logger, WandbLogger)]
        assert wandb.save_dir == "run"
        assert (wandb._wandb_init["id"], wandb._wandb_init["name"]) == ("id", "id")
        assert [logger.save_dir for logger in loggers if isinstance(logger, CSVLogger)] in ([], ["run/logs"])
        assert not Path("run").exists()

    @every_form
    @pytest.mark.parametrize(("name", "expected"), [("Comet", "run"), ("MLFlow", "run/mlruns")])
    def test_of_loggers_that_have_other_names_for_it(self, name: str, expected: str, form: Form) -> None:
        loggers, _ = built({"class_path": f"{__name__}.{name}"}, form)
        [place] = [logger.place for logger in loggers if hasattr(logger, "place")]
        assert place == expected

    @every_form
    @pytest.mark.parametrize(
        ("given", "expected"),
        [(".", "run"), ("logs", "run/logs"), ("./logs/", "run/logs"), ("run/logs", "run/logs"), ("run", "run")],
    )
    def test_that_is_given_is_one_in_the_run_folder(self, given: str, expected: str, form: Form) -> None:
        loggers, _ = built(csv_logger(save_dir=given, name="mine"), form)
        [mine] = [logger for logger in loggers if logger.name == "mine"]
        assert mine.save_dir == expected

    @pytest.mark.parametrize("given", ["{}/elsewhere", "~/elsewhere", "../elsewhere"])
    def test_that_is_given_outside_is_taken_and_said(
        self, given: str, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HOME", str(folder))
        [logger], told = built(csv_logger(save_dir=given.format(folder)), FORMS["in a list"])
        assert Path(logger.save_dir).resolve() in (folder / "elsewhere", folder.parent / "elsewhere")
        assert told == [f"trainer.logger: CSVLogger writes to {logger.save_dir}, outside of the run folder"]

    def test_of_lightnings_own_is_the_run_folder(self) -> None:
        trainer = dict_to_namespace({"logger": True})
        place_loggers(trainer, run_dir=Path("run"), run_id="id")
        assert trainer.logger.init_args.save_dir == "run"

    def test_what_is_given_on_the_command_line_is_the_same(self) -> None:
        args = fit_args(Path("run"), model__network="two_conv", trainer__logger="CSVLogger")
        [logger] = loggers_of(RunCLI(args))
        assert logger.save_dir == "run"

    def test_config_keeps_what_was_given(self) -> None:
        cli = RunCLI(args_with([WANDB, CSV]))
        wandb, _ = loggers_of(cli)
        assert (wandb.save_dir, wandb._wandb_init["id"]) == ("run", cli.location.run_id)
        logger = cli.saved_config.trainer.logger
        assert [type(one) for one in logger] == [Namespace, Namespace]
        assert (logger[0].init_args.id, logger[1].init_args.save_dir) == (None, "logs")


class TestMode:
    @every_form
    def test_disabled_leaves_the_others(self, form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WANDB_MODE", "disabled")
        loggers, _ = built(WANDB, form)
        assert [type(logger) for logger in loggers] == [CSVLogger] * (
            form in (FORMS["after another"], FORMS["before another"])
        )

    @every_form
    @pytest.mark.parametrize(("mode", "offline"), [("offline", True), ("dryrun", True), ("", False), (None, False)])
    def test_goes_over_the_config(
        self, mode: str | None, offline: bool, form: Form, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("lightning_rl.cli.loggers.silent_server", lambda: None)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        if mode is None:
            monkeypatch.delenv("WANDB_MODE")
        else:
            monkeypatch.setenv("WANDB_MODE", mode)
        loggers, _ = built({"class_path": f"{LOGGERS}.WandbLogger", "init_args": {"offline": False}}, form)
        [wandb] = [logger for logger in loggers if isinstance(logger, WandbLogger)]
        assert wandb._offline is offline

    def test_online_without_an_answer_is_offline_in_a_list_too(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WANDB_MODE", "online")
        monkeypatch.setattr("lightning_rl.cli.loggers.silent_server", lambda: "http://nowhere")
        (_, wandb), told = built(WANDB, FORMS["after another"])
        assert wandb._offline
        assert told == ["W&B's http://nowhere does not answer: the run is logged offline, for `wandb sync`"]

    @every_form
    @pytest.mark.parametrize("asked", ["environment", "config"])
    def test_online_needs_a_key_or_a_terminal_to_ask_for_it(
        self, asked: str, form: Form, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("lightning_rl.cli.loggers.silent_server", lambda: None)
        monkeypatch.delenv("WANDB_API_KEY", raising=False)
        monkeypatch.setenv("NETRC", str(folder / "netrc"))
        if asked == "config":
            monkeypatch.delenv("WANDB_MODE")
        else:
            monkeypatch.setenv("WANDB_MODE", "online")
        online = {"class_path": f"{LOGGERS}.WandbLogger", "init_args": {"offline": asked == "environment"}}
        with pytest.raises(UsageError, match="has no key: wandb login, or WANDB_MODE=offline"):
            built(online, form)
        monkeypatch.setattr("sys.stdin", Terminal())
        loggers, _ = built(online, form)
        assert not any(logger._offline for logger in loggers if isinstance(logger, WandbLogger))


def test_a_list_of_loggers_goes_on_with_one_wandb_run_and_all_is_in_the_run_folder(folder: Path) -> None:
    wandb.teardown()  # a service that an earlier test has started would write to that test's folder
    short: dict[str, Any] = {"model__network": "two_conv", "trainer__logger": None}
    for iterations in (1, 2):
        fit(Path("run"), *config_with([WANDB, CSV]), "--ckpt_path", "last", iterations=iterations, **short)
        wandb.finish()  # as a process's end does: W&B writes its file in the background

    assert read_run_id(Path("run")) == load(Path("run"))[METADATA]["run_id"]
    logged = [row["env_steps"] for row in read_history(Path("run")) if "loss/policy" in row]
    assert logged == [ENV_STEPS, 2 * ENV_STEPS]
    assert [row["env_steps"] for row in read_metrics(Path("run/metrics.csv"))] == ["32", "64"]
    assert [path.name for path in sorted(Path("run/logs").rglob("version_*"))] == ["version_0", "version_1"]
    assert sorted(os.listdir(folder)) == ["logger.yaml", "run"]


class TestOneWriter:
    @pytest.mark.parametrize(
        "place",
        [
            {"save_dir": "run", "name": "", "version": ""},
            {"save_dir": ".", "name": "run", "version": ""},
            {"save_dir": "{}", "name": "run", "version": ""},
            {"save_dir": "{}/link", "name": "", "version": ""},
        ],
    )
    def test_of_metrics_csv(self, place: dict[str, Any], folder: Path) -> None:
        (folder / "link").symlink_to("run")
        logger = CSVLogger(**{key: value.format(folder) for key, value in place.items()})
        for loggers in ([logger], [CSVLogger("logs"), logger]):
            with pytest.raises(UsageError, match=r"CSVLogger must not write the run's own run/metrics.csv; give it a"):
                check_one_writer(Path("run"), loggers=loggers, callbacks=[])
        check_one_writer(Path("run"), loggers=[CSVLogger("run", name="mine")], callbacks=[])

    @pytest.mark.parametrize("as_a_list", [False, True])
    def test_of_metrics_csv_in_one_line(self, as_a_list: bool, capsys: pytest.CaptureFixture[str]) -> None:
        logger = csv_logger(save_dir=".", name=None, version="")
        message = refusal(args_with([CSV, logger] if as_a_list else logger), capsys)
        assert "trainer.logger: CSVLogger must not write the run's own run/metrics.csv; give it a name" in message
        assert not Path("run").exists()

    @pytest.mark.parametrize(
        "options", [{"save_last": True}, {"filename": "best"}, {"filename": "last"}, {"filename": "previous"}]
    )
    def test_of_the_checkpoints(self, options: dict[str, Any]) -> None:
        callback = ModelCheckpoint(dirpath="run", **options)
        with pytest.raises(UsageError, match=r"trainer.callbacks: ModelCheckpoint must not write the run's own"):
            check_one_writer(Path("run"), loggers=[], callbacks=[callback])

    def test_of_the_checkpoints_in_one_line(self, capsys: pytest.CaptureFixture[str]) -> None:
        callback = {
            "class_path": "pytorch_lightning.callbacks.ModelCheckpoint",
            "init_args": {"dirpath": "run", "save_last": True},
        }
        Path("more.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
        message = refusal(fit_args(Path("run"), "--config", "more.yaml", model__network="two_conv"), capsys)
        assert "trainer.callbacks: ModelCheckpoint must not write the run's own run/last.ckpt" in message
        assert not Path("run").exists()
