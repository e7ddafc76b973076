import errno
import os
from pathlib import Path
from typing import IO

import pytest
import yaml

from lightning_rl.callbacks.run_folder import RunFolder
from lightning_rl.cli.command import RunCLI
from lightning_rl.cli.program import main
from lightning_rl.runs import atomic_files
from tests.support.runs import ENV_STEPS, fit, fit_args, rows
from tests.support.shared_runs import SharedRuns


def test_a_resumed_run_says_what_differs_and_cuts_metrics_to_the_checkpoint(
    tmp_path: Path, runs: SharedRuns, caplog: pytest.LogCaptureFixture
) -> None:
    run_dir = runs.copied(tmp_path / "run", "ppo")
    metrics = run_dir / "metrics.csv"
    written = metrics.read_text()
    metrics.write_text(f"{written}96,1.0\n128,0.5")  # logged, then killed before the checkpoint, in mid-line

    fit(run_dir, "--ckpt_path", "last", iterations=3, model__entropy_weight=0.02)

    told = [record.getMessage() for record in caplog.records if "when this run was last started" in record.getMessage()]
    assert told == [
        "data.init_args.total_env_steps was 64 when this run was last started and is 96 now",
        "model.init_args.entropy_weight was 0.01 when this run was last started and is 0.02 now",
    ]
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert config["model"]["init_args"]["entropy_weight"] == 0.02
    assert [row["env_steps"] for row in rows(run_dir)] == ["32", "64", "96"]
    assert metrics.read_text().startswith(written)


def test_a_resumed_run_learns_with_the_options_that_it_is_given(tmp_path: Path, runs: SharedRuns) -> None:
    run_dir = runs.copied(tmp_path / "run", "impala_vae")

    options = {"model__learning_rate": 2e-3, "model__adam_epsilon": 0.1, "model__vae__learning_rate": 3e-4}
    checkpoint = fit(run_dir, "--ckpt_path", "last", config="impala_vae", iterations=3, **options)

    agent, autoencoder = checkpoint["optimizer_states"][0]["param_groups"]
    assert (agent["lr"], agent["eps"]) == (2e-3, 0.1)
    assert (autoencoder["lr"], autoencoder["eps"]) == (3e-4, 1e-8)


def test_fast_dev_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(fit_args(tmp_path / "run", trainer__fast_dev_run="true", trainer__logger=None)) == 0
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def killed(tmp_path: Path, runs: SharedRuns) -> Path:
    """The folder of a run that was killed after the first of its two boundaries."""
    run_dir = runs.copied(tmp_path / "run", "ppo")
    (run_dir / "previous.ckpt").replace(run_dir / "last.ckpt")
    return run_dir


def test_a_config_that_stays_the_same_is_not_written_again(killed: Path) -> None:
    config = killed / "config.yaml"
    before = config.stat()

    checkpoint = fit(killed, "--ckpt_path", "last", iterations=2)

    assert checkpoint["ProcgenDataModule"]["env_steps"] == 2 * ENV_STEPS

    assert (config.stat().st_ino, config.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_config_that_does_not_fit_on_the_disk_leaves_the_old_one(
    killed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(file: IO[bytes]) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = (killed / "config.yaml").read_bytes()
    monkeypatch.setattr(atomic_files, "flush", full)

    assert main(fit_args(killed, "--ckpt_path", "last", iterations=3)) == 1

    assert "No space left on device" in capsys.readouterr().err
    assert (killed / "config.yaml").read_bytes() == before


@pytest.mark.parametrize("damaged", [b"model: {\xff", b"model: {", b"\0" * 9], ids=["bytes", "yaml", "zeros"])
def test_an_unreadable_config_is_told_and_replaced(
    damaged: bytes, killed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = killed / "config.yaml"
    before = config.read_bytes()
    config.write_bytes(damaged)
    cli = RunCLI(fit_args(killed, "--ckpt_path", "last", iterations=2))
    [callback] = [callback for callback in cli.trainer.callbacks if isinstance(callback, RunFolder)]  # type: ignore[attr-defined]  # set in its __init__

    callback.on_fit_start(cli.trainer, cli.model)

    assert f"{config} is unreadable and is replaced" in [record.getMessage() for record in caplog.records]
    assert config.read_bytes() == before
